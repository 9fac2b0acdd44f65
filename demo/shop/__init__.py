"""The desk of a small shop: a customer's letter, and four things to do with it, each in a form of its own."""
