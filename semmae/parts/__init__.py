"""What a part learner is used for: extraction to a part store, quality, true parts."""
