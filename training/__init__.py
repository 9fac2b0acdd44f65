"""Rows to bundle, top to bottom.

recipe -> rows -> rendering -> split                     what is learned from
base_model -> finetune                                   Stage I, the warm-up adapter
adapter_check -> row_gradients -> gram -> cluster_count
    -> centroid_cache -> calibration -> assignment       Stage II, the clusters
experts -> encoder -> router_head -> router_export       Stage III, experts and router
report -> bundling                                       what people and the service get

`pipeline.train` walks that line through `stage_one`, `stage_two` and `stage_three`; `stage_store` remembers what
is done.
"""
