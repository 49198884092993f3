"""Networks of the shapes that people prune, narrow enough to test in milliseconds; (batch, 3, 32, 32) -> outputs."""

import torch
import torch.nn.functional as F
from torch import nn

from smart_train.models.mobilenet import MobileNetV2

SIZE = 32


def conv(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), *([act()] if act else []))


class Residual(nn.Module):
    """ResNet's block: basic for ``squeeze`` None, else the bottleneck; grouped as in ResNeXt."""

    def __init__(self, inputs, outputs, stride=1, squeeze=None, groups=1):
        super().__init__()
        if squeeze is None:
            layers = [conv(inputs, outputs, 3, stride), conv(outputs, outputs, act=None)]
        else:
            layers = [conv(inputs, squeeze, 1), conv(squeeze, squeeze, 3, stride, groups)]
            layers.append(conv(squeeze, outputs, 1, act=None))
        self.body = nn.Sequential(*layers)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride, act=None)

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, squeeze=None, groups=1, widths=(16, 32)):
        super().__init__()
        self.stem, self.pool = conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 16
        for stage, width in enumerate(widths):
            for block in range(2):
                blocks.append(Residual(inputs, width, 2 if stage and not block else 1, squeeze, groups))
                inputs = width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, 10)

    def forward(self, x):
        return self.head(torch.flatten(self.blocks(self.pool(self.stem(x))).mean((2, 3)), 1))


class MBConv(nn.Module):
    """EfficientNet's block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, inputs, outputs, stride=1, expansion=4):
        super().__init__()
        hidden = inputs * expansion
        self.expand, self.depthwise = conv(inputs, hidden, 1, act=nn.SiLU), conv(hidden, hidden, 3, stride, hidden)
        self.squeeze, self.excite = nn.Conv2d(hidden, 8, 1), nn.Conv2d(8, hidden, 1)
        self.project, self.residual = conv(hidden, outputs, 1, act=None), stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        y = self.project(y * torch.sigmoid(gate))
        return x + y if self.residual else y


def efficientnet():
    blocks = [MBConv(16, 16), MBConv(16, 24, 2), MBConv(24, 24)]
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.SiLU), *blocks, conv(24, 64, 1, act=nn.SiLU), *head(64))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.project(F.gelu(self.expand(y)))).permute(0, 3, 1, 2)


def convnext():
    stem, down = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 32, 2, 2)
    return nn.Sequential(stem, ConvNeXtBlock(16), ConvNeXtBlock(16), down, ConvNeXtBlock(32), *head(32))


def vgg():
    """As torchvision's: the first Linear reads channels and places."""
    features = [conv(3, 16), conv(16, 16), nn.MaxPool2d(2), conv(16, 32), conv(32, 32), nn.MaxPool2d(4)]
    classifier = [nn.Linear(32 * 16, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(4), nn.Flatten(), *classifier)


def head(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)


class C2f(nn.Module):
    """YOLO's cross-stage block: half of the channels run through, all intermediate results are concatenated."""

    def __init__(self, inputs, outputs, blocks=2):
        super().__init__()
        half = outputs // 2
        self.enter = conv(inputs, 2 * half, 1, act=nn.SiLU)
        self.blocks = nn.ModuleList(conv(half, half, act=nn.SiLU) for _ in range(blocks))
        self.leave = conv((2 + blocks) * half, outputs, 1, act=nn.SiLU)

    def forward(self, x):
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """Three levels, up and down through the neck, boxes and classes at two of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.low = conv(3, 16, 3, 2, act=nn.SiLU), C2f(16, 16)
        self.down, self.high = conv(16, 32, 3, 2, act=nn.SiLU), C2f(32, 32)
        self.top_down, self.shrink, self.bottom_up = C2f(48, 16), conv(16, 16, 3, 2, act=nn.SiLU), C2f(48, 32)
        self.heads = nn.ModuleList([nn.Conv2d(16, 9, 1), nn.Conv2d(32, 9, 1)])

    def forward(self, x):
        low = self.low(self.stem(x))
        high = self.high(self.down(low))
        fine = self.top_down(torch.cat([F.interpolate(high, scale_factor=2), low], 1))
        coarse = self.bottom_up(torch.cat([self.shrink(fine), high], 1))
        return [head(level).flatten(2) for head, level in zip(self.heads, (fine, coarse), strict=True)]


class UNet(nn.Module):
    """Encoder, decoder with transposed convolutions, skips by concatenation, a map of classes."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(conv(3, 16), conv(16, 16))
        self.middle = nn.Sequential(conv(16, 32), conv(32, 32))
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.leave = nn.Sequential(conv(32, 16), conv(16, 16))
        self.classes = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        skip = self.enter(x)
        up = self.up(self.middle(F.max_pool2d(skip, 2)))
        return self.classes(self.leave(torch.cat([up, skip], 1)))


class DenseNet(nn.Module):
    """BatchNorm in front of the convolutions, over channels of several layers; a grouped convolution reads them all."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 * (1 + i)) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(16 * (1 + i), 16, 3, padding=1) for i in range(2))
        self.grouped, self.last = nn.Conv2d(48, 48, 3, padding=1, groups=6), nn.Linear(48, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        x = self.grouped(F.relu(self.norms[-1](x)))
        return self.last(F.hardswish(x).mean((2, 3)))


ZOO = {
    "resnet18": ResNet,
    "resnet50": lambda: ResNet(squeeze=16, widths=(32, 64)),
    "resnext": lambda: ResNet(squeeze=16, groups=4, widths=(32, 64)),
    "mobilenet_v2": lambda: MobileNetV2(10, width=0.25),
    "efficientnet": efficientnet,
    "convnext": convnext,
    "vgg": vgg,
    "detector": Detector,
    "unet": UNet,
    "densenet": DenseNet,
}


def make(name, seed=0):
    """In eval mode, with running statistics and BatchNorm parameters that are not those of a fresh model."""
    torch.manual_seed(seed)
    model = ZOO[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5), module.bias.normal_(0, 0.3)
    return model
