"""The learner's parts in the form that other libraries expect."""
