"""Pictures of parts, masks, reconstructions and segmentations, and the report of a folder."""
