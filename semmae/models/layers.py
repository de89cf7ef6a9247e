"""Transformer layers with mmpretrain's tensors; they skip queries whose output is unused.

B images, T tokens, D channels, Q tokens that are asked for.
"""
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import is_model_wrapper
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils.attention import MultiheadAttention


class Attention(MultiheadAttention):
    """mmpretrain's attention, of all tokens or of the last ones only."""

    def bias(self):
        """What is added to the logits (1, heads, T, T), or None."""
        return None

    def forward(self, x, num_queries=None):
        """(B, T, D) -> (B, Q, D). num_queries: Q, the last tokens; None: all."""
        b, n, _ = x.shape
        # Taken apart at once, and where they lie: their gradients are then joined in one pass.
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

    On a CPU torch's fused kernel is slower in bfloat16 than its matrix products are, above all
    backwards (`benchmarks/speed/step.py`); everywhere else it is taken.
    """
    if q.device.type != 'cpu' or q.element_size() == 4 or dropout:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    logits = (q * q.shape[-1] ** -.5) @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(-1) @ v


class Layer(TransformerEncoderLayer):
    """mmpretrain's layer. With ``num_queries`` it updates the last tokens only, and returns those.

    The others still are what is attended to. For the last layer of the MAE decoder, of which only
    the masked positions are looked at.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.attn.__class__ = Attention

    @classmethod
    def of(cls, layer):
        """mmpretrain's ``layer`` itself, with its tensors, as one of ours."""
        layer.__class__, layer.attn.__class__ = cls, Attention
        for drop in layer.modules():
            if isinstance(drop, DropPath):  # NumPy's numbers, which torch.compile cannot follow
                drop.drop_prob = float(drop.drop_prob)
        return layer

    def forward(self, x, num_queries=None):
        seen = self.ln1(x)
        if num_queries is None:
            x = x + self.attn(seen)
        else:
            x = x[:, -num_queries:] + self.attn(seen, num_queries)
        return self.ffn(self.ln2(x), identity=x)


def unwrapped(model):
    """The model itself, with or without DistributedDataParallel around it."""
    return model.module if is_model_wrapper(model) else model
