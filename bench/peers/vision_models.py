"""ResNet-50, EfficientNet-B0, ViT-B/16 and BERT-base in plain PyTorch with random weights: what the comparison needs and nothing else."""
import torch
from torch import nn
import torch.nn.functional as F


def conv_norm(inputs, outputs, kernel, stride=1, groups=1, activation=None):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.body = nn.Sequential(conv_norm(inputs, width, 1, activation=nn.ReLU), conv_norm(width, width, 3, stride, activation=nn.ReLU),
                                  conv_norm(width, 4 * width, 1))
        self.skip = conv_norm(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
                inputs = 4 * width
        self.stem = nn.Sequential(conv_norm(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(2048, 1000)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class MobileBlock(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        wide, small = inputs * expansion, max(1, inputs // 4)
        self.expand = conv_norm(inputs, wide, 1, activation=nn.SiLU) if expansion > 1 else nn.Identity()
        self.depth = conv_norm(wide, wide, kernel, stride, groups=wide, activation=nn.SiLU)
        self.down, self.up = nn.Conv2d(wide, small, 1), nn.Conv2d(small, wide, 1)
        self.project = conv_norm(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.depth(self.expand(x))
        y = y * torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        y = self.project(y)
        return x + y if self.residual else y


class EfficientNetB0(nn.Module):
    def __init__(self):
        super().__init__()
        blocks, inputs = [], 32
        for expansion, outputs, count, stride, kernel in ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                                                          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)):
            for i in range(count):
                blocks.append(MobileBlock(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.body = nn.Sequential(conv_norm(3, 32, 3, 2, activation=nn.SiLU), *blocks, conv_norm(320, 1280, 1, activation=nn.SiLU))
        self.head = nn.Linear(1280, 1000)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1))


class Layer(nn.Module):
    """A transformer's encoder layer, norms before (ViT) or behind (BERT) the sums."""

    def __init__(self, width, heads, before, epsilon):
        super().__init__()
        self.heads, self.before = heads, before
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)

    def attend(self, x):
        q, k, v = (f(x).view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def feed(self, x):
        return self.down(F.gelu(self.up(x)))

    def forward(self, x):
        if self.before:
            x = x + self.attend(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.feed(x))


class VitB(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 1, 768) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 197, 768) * 0.02)
        self.layers = nn.Sequential(*[Layer(768, 12, True, 1e-6) for _ in range(12)])
        self.norm, self.head = nn.LayerNorm(768, 1e-6), nn.Linear(768, 1000)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), x), 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


class BertBase(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(30522, 768), nn.Embedding(512, 768)
        self.kinds = nn.Embedding(2, 768)
        self.norm = nn.LayerNorm(768, 1e-12)
        self.layers = nn.Sequential(*[Layer(768, 12, False, 1e-12) for _ in range(12)])
        self.pool = nn.Linear(768, 768)

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.kinds(torch.zeros_like(ids)))
        x = self.layers(x)
        return x, torch.tanh(self.pool(x[:, 0]))


MODELS = {"resnet50": ResNet50, "efficientnet_b0": EfficientNetB0, "vit_b": VitB, "bert_base": BertBase}


def make_model(name, seed=1):
    """In f16 on the host; norms' statistics as after training: not the ones that leave a BatchNorm without effect."""
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.half()


def make_input(name, batch, seed=2):
    torch.manual_seed(seed)
    return torch.randint(0, 30000, (batch, 128)) if name == "bert_base" else torch.randn(batch, 3, 224, 224).half()


def export(name, path, batch):
    """One ONNX file for one batch, constants folded."""
    model, x = make_model(name), make_input(name, batch)
    if torch.cuda.is_available():
        model, x = model.cuda(), x.cuda()
    torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
