"""Rows to bundle, in the order that a row walks.

rows -> stages.inputs                     read, rendered, tokenised, split: what is learned from
models, `stage_one`                       Stage I: the warm-up adapter on the base
memory                                    what Stage II will take, and what fits the budget
                                          Stage II, `stage_two`:
diagnosis                                 are the gradients exact?
gradients                                 one row's gradient, many at a time; computed again, or kept on disk
clusters.count                            K, and where the centroids start
clusters.centroids -> clusters.assignment -> clusters.row_orders
                                          the partition, and whether the order of the rows decides it
models, router, `stage_three`             Stage III: an expert per cluster, one LoRA on everything, and the router
gate                                      who answers what, by the loss of held-out rows
report                                    what people read
bundling                                  what the service gets, and a model hub

pack                                      a bundle of adapters that were trained elsewhere

`run.Run` has a property for each of these, done when it is first asked for; `pipeline.train` asks for all of them, and
evaluation and benchmarks for what they need. `stages` is what a run is made of: `store` remembers what is done,
`checkpoint` where a stage stands, `processes` who else works on it. Everything that can be chosen stands in `recipe`.
"""
