"""The contract between training and serving: a folder, described by one manifest, verified byte by byte.

No torch and no HTTP in here. `write.BundleWriter` makes a bundle, `read.read_bundle` verifies and opens one.
"""
