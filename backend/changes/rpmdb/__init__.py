"""rpm's database of two points, read by a confined process that trusts nothing in it.

The process imports this package too: nothing here may load the models.
"""
