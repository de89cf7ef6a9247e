"""Transformer layers with the tensors of mmpretrain's; they skip queries whose output is unused.

B images, T tokens, D channels, Q tokens whose output is used.
"""
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import is_model_wrapper
from torch import nn


class Attention(nn.Module):
    """mmpretrain's ``MultiheadAttention`` with its own tensors, for all or for the last queries."""

    def __init__(self, attn):
        super().__init__()
        self.embed_dims, self.num_heads = attn.embed_dims, attn.num_heads
        self.attn_drop = attn.attn_drop
        self.qkv, self.proj, self.proj_drop = attn.qkv, attn.proj, attn.proj_drop
        self.out_drop, self.gamma1 = attn.out_drop, attn.gamma1

    def bias(self):
        """The bias that is added to the logits, (1, heads, T, T), or None."""
        return None

    def forward(self, x, num_queries=None):
        """(B, T, D) -> (B, Q, D) for the last Q = ``num_queries`` tokens; None: for all."""
        b, n, _ = x.shape
        # Views of one tensor: the backward pass joins their gradients in one pass.
        q, k, v = (part.transpose(1, 2)
                   for part in self.qkv(x).view(b, n, 3, self.num_heads, -1).unbind(2))
        bias = self.bias()
        if bias is not None:
            bias = bias.to(q.dtype)
        if num_queries is not None:
            q = q[:, :, -num_queries:]
            bias = bias if bias is None else bias[:, :, -num_queries:]
        x = attend(q, k, v, bias, self.attn_drop if self.training else 0.)
        x = self.proj(x.transpose(1, 2).reshape(b, -1, self.embed_dims))
        return self.out_drop(self.gamma1(self.proj_drop(x)))


def attend(q, k, v, bias=None, dropout=0.):
    """Scaled dot-product attention of q (B, heads, Q, d) to k and v (B, heads, T, d).

    In bfloat16 on a CPU it is computed by matrix products: torch's fused kernel is slower there,
    mainly in the backward pass (benchmarks/speed/step.py).
    """
    if q.device.type != 'cpu' or q.element_size() == 4 or dropout:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    logits = (q * q.shape[-1] ** -.5) @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(-1) @ v


class Layer(nn.Module):
    """mmpretrain's ``TransformerEncoderLayer`` with its own tensors.

    With ``num_queries`` it computes and returns the last tokens only, which attend to all tokens.
    The last layer of the MAE decoder does that, since only masked positions are predicted.
    """

    def __init__(self, layer):
        super().__init__()
        self.ln1, self.attn = layer.ln1, Attention(layer.attn)
        self.ln2, self.ffn = layer.ln2, layer.ffn
        for drop in self.modules():
            if isinstance(drop, DropPath):  # a NumPy number, which torch.compile cannot trace
                drop.drop_prob = float(drop.drop_prob)

    def forward(self, x, num_queries=None):
        """(B, T, D) -> (B, T, D), or (B, Q, D) with ``num_queries`` = Q."""
        attended = self.attn(self.ln1(x), num_queries)
        if num_queries is not None:
            x = x[:, -num_queries:]
        x = x + attended
        return self.ffn(self.ln2(x), identity=x)


def unwrapped(model):
    """The model without DistributedDataParallel around it."""
    return model.module if is_model_wrapper(model) else model
