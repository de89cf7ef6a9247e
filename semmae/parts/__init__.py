"""Uses of a part learner: extraction to a part store, quality, true parts."""
