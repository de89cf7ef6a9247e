"""The paper as functions on tensors. They import torch and the standard library, nothing else.

Eq. 1          part tokens                       parts.part_tokens
Eq. 2          part attention maps               parts.part_attention; blur (Sec. 3.1): blur_maps
Eq. 3          AdaIN of the part decoder         parts.adain; Eq. 4 stacks it: models.part_decoder
Eq. 5          reconstruction loss               losses.reconstruction_loss
Eq. 6          diversity loss                    losses.diversity_loss
Eq. 7          their weighted sum                losses.part_loss
Algorithm 1    patches to mask in each part      masking.patches_to_mask_per_part; alpha: alpha_at
               the mask itself (Sec. 3.2)        masking.part_guided_mask
Sec. 4.2       foreground patches (8x8)          parts.foreground_scores, foreground_ids
Baselines      random, block-wise, attention     masking.random_mask, blockwise_mask, attention_mask
MAE            patches, positions, loss          patches.py, losses.masked_patch_loss
Evaluation     weighted nearest neighbours       knn.py
"""
