"""The paper as functions on tensors. Imports torch and the standard library, nothing else.

patches.py  images and patches, positions
parts.py    part tokens, part maps and what is read from them (Eq. 1-3)
losses.py   Eq. 5-7 and the masked reconstruction loss of MAE
masking.py  Algorithm 1, and the masks it is compared with
"""
