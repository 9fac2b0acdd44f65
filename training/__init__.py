"""Rows to bundle, top to bottom.

recipe -> rows -> rendering -> split -> inputs           what is learned from
model_shape -> micro_batch_memory -> stage_two_memory
    -> machine -> plan -> planning                       what Stage II will take, before anything is trained
base_model -> finetune                                   Stage I, the warm-up adapter

                                                         Stage II, the clusters:
adapter_check, structure_checks -> diagnosis             are the gradients exact
row_loss, micro_batches -> row_gradients                 one row's gradient, many at a time
gradient_source, gradient_store -> gradient_supply       computed again, or kept on disk
gram -> silhouette_grid, spherical_kmeans, probe_halves
    -> cluster_count                                     K and where centroids start
cluster_cache -> calibration -> assignment -> shuffles   the partition, and whether the order decides it

encoder -> router_head -> router_export                  Stage III, experts and router
cluster_quality, cluster_examples, norm_shares, verdict
    -> report_figures -> report_page -> report           what people read
bundle_card -> bundling                                  what the service gets
publishing                                               and what a model hub gets

given_adapter, given_head, labelled_rows -> packing      a bundle of adapters that were trained elsewhere

`pipeline.train` walks that line through `stage_one`, `stage_two` and `stage_three`; `stage_store` remembers what
is done, `checkpoint` where a stage stands, `world` who else works on it.
"""
