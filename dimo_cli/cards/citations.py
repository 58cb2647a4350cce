"""What to cite: the papers behind dimo, and those of each family of teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """A work to cite; `link` is its arXiv number or its address."""

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str | None = None
    link: str | None = None

    @property
    def url(self) -> str:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.link or ""

    def bibtex(self) -> str:
        """The entry for a bibliography."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "year": str(self.year),
        }
        fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"} if self.arxiv else {}
        lines = [f"  {name} = {{{value}}}" for name, value in (fields | {"url": self.url}).items()]
        return f"@misc{{{self.key},\n" + ",\n".join(lines) + "\n}"


AUTHORS = ("Yuanzhi Zhu", "Xi Wang", "Stéphane Lathuilière", "Vicky Kalogeiton")
DIMO = Work(
    "zhu2025dimo",
    "Di[M]O: Distilling Masked Diffusion Models into One-step Generator",
    AUTHORS,
    2025,
    arxiv="2503.15457",
)
SOFT_DIMO = Work(
    "zhu2025softdimo",
    "Soft-Di[M]O: Improving One-Step Discrete Image Generation with Soft Embeddings",
    AUTHORS,
    2025,
    arxiv="2509.22925",
)
# By family; a teacher that is not here is named in the card without a paper.
TEACHERS: Mapping[str, tuple[Work, ...]] = {
    "digits": (
        Work(
            "alpaydin1998digits",
            "Optical Recognition of Handwritten Digits",
            ("Ethem Alpaydin", "Cenk Kaynak"),
            1998,
            link="https://doi.org/10.24432/C50P49",
        ),
    ),
    "emoji": (
        Work(
            "google2013noto",
            "Noto Emoji (Apache License 2.0)",
            ("{Google Inc.}",),
            2013,
            link="https://github.com/googlefonts/noto-emoji",
        ),
        Work(
            "microsoft2022fluent",
            "Fluent Emoji (MIT License)",
            ("{Microsoft Corporation}",),
            2022,
            link="https://github.com/microsoft/fluentui-emoji",
        ),
    ),
    "maskgit": (
        Work(
            "chang2022maskgit",
            "MaskGIT: Masked Generative Image Transformer",
            ("Huiwen Chang", "Han Zhang", "Lu Jiang", "Ce Liu", "William T. Freeman"),
            2022,
            arxiv="2202.04200",
        ),
        Work(
            "besnier2023maskgit",
            "A Pytorch Reproduction of Masked Generative Image Transformer",
            ("Victor Besnier", "Mickael Chen"),
            2023,
            arxiv="2310.14400",
        ),
    ),
    "halton": (
        Work(
            "besnier2025halton",
            "Halton Scheduler For Masked Generative Image Transformer",
            ("Victor Besnier", "Mickael Chen", "David Hurych", "Eduardo Valle", "Matthieu Cord"),
            2025,
            arxiv="2503.17076",
        ),
        Work(
            "sun2024llamagen",
            "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation",
            (
                "Peize Sun",
                "Yi Jiang",
                "Shoufa Chen",
                "Shilong Zhang",
                "Bingyue Peng",
                "Ping Luo",
                "Zehuan Yuan",
            ),
            2024,
            arxiv="2406.06525",
        ),
    ),
    "showo": (
        Work(
            "xie2024showo",
            "Show-o: One Single Transformer to Unify Multimodal Understanding and Generation",
            (
                "Jinheng Xie",
                "Weijia Mao",
                "Zechen Bai",
                "David Junhao Zhang",
                "Weihao Wang",
                "Kevin Qinghong Lin",
                "Yuchao Gu",
                "Zhijie Chen",
                "Zhenheng Yang",
                "Mike Zheng Shou",
            ),
            2024,
            arxiv="2408.12528",
        ),
        Work(
            "yu2023magvit2",
            "Language Model Beats Diffusion -- Tokenizer is Key to Visual Generation",
            (
                "Lijun Yu",
                "José Lezama",
                "Nitesh B. Gundavarapu",
                "Luca Versari",
                "Kihyuk Sohn",
                "David Minnen",
                "Yong Cheng",
                "Vighnesh Birodkar",
                "Agrim Gupta",
                "Xiuye Gu",
                "Alexander G. Hauptmann",
                "Boqing Gong",
                "Ming-Hsuan Yang",
                "Irfan Essa",
                "David A. Ross",
                "Lu Jiang",
            ),
            2023,
            arxiv="2310.05737",
        ),
    ),
    "maskbit": (
        Work(
            "weber2024maskbit",
            "MaskBit: Embedding-free Image Generation via Bit Tokens",
            (
                "Mark Weber",
                "Lijun Yu",
                "Qihang Yu",
                "Xueqing Deng",
                "Xiaohui Shen",
                "Daniel Cremers",
                "Liang-Chieh Chen",
            ),
            2024,
            arxiv="2409.16211",
        ),
    ),
    "titok": (
        Work(
            "yu2024titok",
            "An Image is Worth 32 Tokens for Reconstruction and Generation",
            (
                "Qihang Yu",
                "Mark Weber",
                "Xueqing Deng",
                "Xiaohui Shen",
                "Daniel Cremers",
                "Liang-Chieh Chen",
            ),
            2024,
            arxiv="2406.07550",
        ),
    ),
    "maskgen": (
        Work(
            "kim2025maskgen",
            "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware "
            "One-Dimensional Tokens",
            (
                "Dongwon Kim",
                "Ju He",
                "Qihang Yu",
                "Chenglin Yang",
                "Xiaohui Shen",
                "Suha Kwak",
                "Liang-Chieh Chen",
            ),
            2025,
            arxiv="2501.07730",
        ),
    ),
    "meissonic": (
        Work(
            "bai2024meissonic",
            "Meissonic: Revitalizing Masked Generative Transformers for Efficient "
            "High-Resolution Text-to-Image Synthesis",
            (
                "Jinbin Bai",
                "Tian Ye",
                "Wei Chow",
                "Enxin Song",
                "Qing-Guo Chen",
                "Xiangtai Li",
                "Zhen Dong",
                "Lei Zhu",
                "Shuicheng Yan",
            ),
            2024,
            arxiv="2410.08261",
        ),
    ),
    "muddit": (
        Work(
            "shi2025muddit",
            "Muddit: Liberating Generation Beyond Text-to-Image with a Unified Discrete "
            "Diffusion Model",
            (
                "Qingyu Shi",
                "Jinbin Bai",
                "Zhuoran Zhao",
                "Wenhao Chai",
                "Kaidong Yu",
                "Jianzong Wu",
                "Yunhai Tong",
                "Xiangtai Li",
                "Xuelong Li",
                "Shuicheng Yan",
            ),
            2025,
            arxiv="2505.23606",
        ),
    ),
    "dimoo": (
        Work(
            "xin2025lumina",
            "Lumina-DiMOO: An Omni Diffusion Large Language Model for Multi-Modal Generation and "
            "Understanding",
            (
                *("Yi Xin", "Qi Qin", "Siqi Luo", "Kaiwen Zhu", "Juncheng Yan", "Yan Tai"),
                *("Jiayi Lei", "Yuewen Cao", "Keqi Wang", "Yibin Wang", "Jinbin Bai", "Qian Yu"),
                *("Dengyang Jiang", "Yuandong Pu", "Haoxing Chen", "Le Zhuo", "Junjun He"),
                *("Gen Luo", "Tianbin Li", "Ming Hu", "Jin Ye", "Shenglong Ye", "Bo Zhang"),
                *("Chang Xu", "Wenhai Wang", "Hongsheng Li", "Guangtao Zhai", "Tianfan Xue"),
                *("Bin Fu", "Xiaohong Liu", "Yu Qiao", "Yihao Liu"),
            ),
            2025,
            arxiv="2510.06308",
        ),
        Work(
            "nie2025llada",
            "Large Language Diffusion Models",
            (
                "Shen Nie",
                "Fengqi Zhu",
                "Zebin You",
                "Xiaolu Zhang",
                "Jingyang Ou",
                "Jun Hu",
                "Jun Zhou",
                "Yankai Lin",
                "Ji-Rong Wen",
                "Chongxuan Li",
            ),
            2025,
            arxiv="2502.09992",
        ),
    ),
    "amused": (
        Work(
            "patil2024amused",
            "aMUSEd: An Open MUSE Reproduction",
            ("Suraj Patil", "William Berman", "Robin Rombach", "Patrick von Platen"),
            2024,
            arxiv="2401.01808",
        ),
    ),
}
