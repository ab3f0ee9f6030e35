"""The forward pass of training: batches, packed and padded layouts, the output head, FSDP."""
