"""Convolutions that nothing here multiplies sparse: masked they run dense on the masked weight."""

from torch import Tensor, nn

from .masked import Masked


class MaskedConvolution(Masked):
    """Base of the masked convolutions that run dense: their own ``forward`` reads the masked ``weight``."""

    def matrix(self) -> Tensor:
        """View the raw weight as (N, taps, C)."""
        return self.raw_weight.flatten(2).transpose(1, 2)

    def _from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix.transpose(1, 2).reshape(self.raw_weight.shape)

    def is_product(self) -> bool:
        """Return that the layer is no product with a matrix."""
        return False


class MaskedTransposed(MaskedConvolution):
    """Base of those with input channels first."""

    def matrix(self) -> Tensor:
        """View the raw weight as (N, taps, C)."""
        return self.raw_weight.flatten(2).permute(1, 2, 0)

    def _from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix.permute(2, 0, 1).reshape(self.raw_weight.shape)


class MaskedConv1d(MaskedConvolution, nn.Conv1d):
    """``nn.Conv1d`` whose weight is masked tile by tile."""

    dense_class = nn.Conv1d


class MaskedConv3d(MaskedConvolution, nn.Conv3d):
    """``nn.Conv3d`` whose weight is masked tile by tile."""

    dense_class = nn.Conv3d


class MaskedConvTranspose1d(MaskedTransposed, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` whose weight is masked tile by tile."""

    dense_class = nn.ConvTranspose1d


class MaskedConvTranspose2d(MaskedTransposed, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` whose weight is masked tile by tile."""

    dense_class = nn.ConvTranspose2d


class MaskedConvTranspose3d(MaskedTransposed, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` whose weight is masked tile by tile."""

    dense_class = nn.ConvTranspose3d


MASKED_CONVS = (MaskedConv1d, MaskedConv3d, MaskedConvTranspose1d, MaskedConvTranspose2d, MaskedConvTranspose3d)
