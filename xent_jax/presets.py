"""Published hyper-parameters of the losses, by loss and data set, each with where it stands.

A loss's defaults are one published setting; here are the others. Data alone:

  >>> import xent_jax as xent
  >>> xent.presets.preset("symmetric_cross_entropy", "cifar100")
  {'alpha': 6.0, 'beta': 0.1}
  >>> xent.presets.PRESETS["symmetric_cross_entropy"]["cifar100"].source
  'Wang et al. 2019; github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels, train_models.py'
"""

import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """What somebody has published a loss with.

    Attributes:
      arguments: keyword arguments of the loss.
      source: the paper, and where in it or in its authors' repository they stand.
    """

    arguments: Mapping[str, Any]
    source: str


def preset(loss: str, name: str) -> dict[str, Any]:
    """Returns the keyword arguments that a loss was published with for a data set.

    Args:
      loss: a loss's name, such as "symmetric_cross_entropy".
      name: of a data set, such as "cifar10", with what else tells settings apart, such as
        "cifar10_lt100" (long tail, imbalance 100) or "cifar10_asymmetric" (kind of label noise).

    Raises:
      ValueError: if there is none; it names the nearest and all that there are.
    """
    known = PRESETS.get(loss)
    if known is None:
        raise ValueError(
            f"no preset is known for {loss!r}{_nearest(loss, PRESETS)}; "
            f"there are some for {', '.join(PRESETS)}"
        )
    if name not in known:
        raise ValueError(
            f"{loss!r} has no preset {name!r}{_nearest(name, known)}; it has {', '.join(known)}"
        )
    return {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in known[name].arguments.items()
    }


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


_ALF = "Zhou et al. 2021; github.com/hitcszx/ALFs, lnl/config.py"
_ANL = "Ye et al. 2023; github.com/Virusdoll/Active-Negative-Loss, config/"
_APL = "Ma et al. 2020; github.com/HanxunH/Active-Passive-Losses, configs/"
_BAG = "Zhang et al. 2021; github.com/zhangyongshun/BagofTricks-LT, configs/cao_cifar/re_weighting/"
_CALIBRATION = "Mukhoti et al. 2020; github.com/torrvision/focal_calibration, README.md"
_DB = "Wu et al. 2020; github.com/wutong16/DistributionBalancedLoss, configs/"
_DKD = "Zhao et al. 2022; github.com/megvii-research/mdistiller, "
_ELR = "Liu et al. 2020; github.com/shengliu66/ELR, "
_EPSILON = "Wang et al. 2024; github.com/cswjl/eps-softmax, config.py"
_GCE = "Zhang and Sabuncu 2018, section 4; github.com/dmizr/phuber, conf/loss/gce.yaml"
_GJS = "Englesson and Azizpour 2021; github.com/ErikEnglesson/GJS, scripts/"
_IB = "Park et al. 2021; github.com/pseulki/IB-Loss, cifar_train.py"
_JOINT = "Tanaka et al. 2018; github.com/DaikiTanaka-UT/JointOptimization, README.md"
_LDAM = "Cao et al. 2019; github.com/kaidic/LDAM-DRW, cifar_train.py"
_LOGIT = "Menon et al. 2021; github.com/google-research/google-research, logit_adjustment/main.py"
_MISLAS = "Zhong et al. 2021; github.com/dvlab-research/MiSLAS, config/"
_MS = "Wang et al. 2019; github.com/msight-tech/research-ms-loss, ret_benchmark/"
_PHUBER = "Menon et al. 2020, as replicated in github.com/dmizr/phuber, README.md"
_SCE = (
    "Wang et al. 2019; github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels, "
    "train_models.py"
)
_SIMCLR = "Chen et al. 2020; github.com/google-research/simclr, README.md"
_SUPCON = "Khosla et al. 2020; github.com/HobbitLong/SupContrast, README.md"
_TRADES = "Zhang et al. 2019; github.com/yaodongyu/TRADES, train_trades_"
_VS = "Kini et al. 2021; github.com/orparask/VS-Loss, README.md"

# The repositories of the active-passive family take log 0 to be log 1e-4, where the paper on the
# reverse cross-entropy has -4; and 1 - p_y for the mean absolute error, which is 2 (1 - p_y).
_LOG_ZERO = {"log_zero": math.log(1e-4)}
_HALVED = "; beta halved, for there the mean absolute error is 1 - p_y"


def _with_asymmetric(
    passive: str, alpha: float, beta: float, **passive_options: float
) -> Mapping[str, Any]:
    """Returns the arguments of an active-passive loss whose passive part is asymmetric."""
    return {
        "passive": passive,
        "alpha": alpha,
        "beta": beta,
        "passive_options": passive_options,
    }


def _with_reverse(alpha: float, beta: float) -> Mapping[str, Any]:
    """Returns the arguments of normalized plus reverse cross-entropy."""
    return {"alpha": alpha, "beta": beta, "passive_options": _LOG_ZERO}


def _with_absolute(alpha: float, beta: float) -> Mapping[str, Any]:
    """Returns the arguments of normalized cross-entropy plus mean absolute error."""
    return {"passive": "mean_absolute_error", "alpha": alpha, "beta": beta}


PRESETS: Mapping[str, Mapping[str, Preset]] = MappingProxyType(
    {
        # Label noise. Names without a kind of noise are for symmetric noise.
        "generalized_cross_entropy": {
            name: Preset({"q": 0.7}, _GCE) for name in ("mnist", "cifar10", "cifar100")
        }
        | {"clothing1m": Preset({"q": 0.6}, _EPSILON)},
        "partially_huberised_cross_entropy": {
            "mnist": Preset({"tau": 10.0}, _PHUBER),
            "cifar10": Preset({"tau": 2.0}, _PHUBER),
            "cifar100": Preset({"tau": 10.0}, _PHUBER + "; 50 does better there"),
        },
        "partially_huberised_generalized_cross_entropy": {
            name: Preset({"q": 0.7, "tau": 10.0}, _PHUBER)
            for name in ("mnist", "cifar10", "cifar100")
        },
        "symmetric_cross_entropy": {
            "mnist": Preset({"alpha": 0.01, "beta": 1.0}, _SCE),
            "cifar10": Preset({"alpha": 0.1, "beta": 1.0}, _SCE),
            "cifar100": Preset({"alpha": 6.0, "beta": 0.1}, _SCE),
            "webvision": Preset({"alpha": 10.0, "beta": 1.0}, _ANL + "webvision_sce.json"),
        },
        "normalized_focal": {
            name: Preset({"gamma": 0.5}, f"{_APL}{name}/sym/nfl.yaml")
            for name in ("mnist", "cifar10", "cifar100")
        },
        "normalized_generalized_cross_entropy": {
            name: Preset({"q": q}, f"{_APL}{name}/sym/ngce.yaml")
            for name, q in (("mnist", 0.1), ("cifar10", 0.1), ("cifar100", 0.7))
        },
        "active_passive": {
            "mnist": Preset(_with_reverse(1.0, 10.0), _APL + "mnist/sym/nce+rce.yaml"),
            "mnist_beta100": Preset(_with_reverse(1.0, 100.0), _ALF),
            "mnist_mae": Preset(
                _with_absolute(1.0, 5.0), _APL + "mnist/sym/nce+mae.yaml" + _HALVED
            ),
            "cifar10": Preset(_with_reverse(1.0, 1.0), _APL + "cifar10/sym/nce+rce.yaml"),
            "cifar10_mae": Preset(
                _with_absolute(1.0, 0.5), _APL + "cifar10/sym/nce+mae.yaml" + _HALVED
            ),
            "cifar10_agce": Preset(
                _with_asymmetric("asymmetric_generalized_cross_entropy", 1.0, 4.0, a=6.0, q=1.5),
                _ALF,
            ),
            "cifar10_aul": Preset(
                _with_asymmetric("asymmetric_unhinged", 1.0, 4.0, a=6.3, q=1.5), _ALF
            ),
            "cifar10_ael": Preset(
                _with_asymmetric("asymmetric_exponential", 1.0, 4.0, a=5.0), _ALF
            ),
            "cifar100": Preset(_with_reverse(10.0, 0.1), _APL + "cifar100/sym/nce+rce.yaml"),
            "cifar100_mae": Preset(
                _with_absolute(10.0, 0.5), _APL + "cifar100/sym/nce+mae.yaml" + _HALVED
            ),
            "cifar100_agce": Preset(
                _with_asymmetric("asymmetric_generalized_cross_entropy", 10.0, 0.1, a=1.8, q=3.0),
                _ALF,
            ),
            "cifar100_aul": Preset(
                _with_asymmetric("asymmetric_unhinged", 10.0, 0.015, a=6.0, q=3.0), _ALF
            ),
            "cifar100_ael": Preset(
                _with_asymmetric("asymmetric_exponential", 10.0, 0.1, a=1.5), _ALF
            ),
            "webvision": Preset(_with_reverse(50.0, 0.1), _ANL + "webvision_nce_rce.json"),
            "webvision_agce": Preset(
                _with_asymmetric("asymmetric_generalized_cross_entropy", 50.0, 0.1, a=2.5, q=3.0),
                _ANL + "webvision_nce_agce.json",
            ),
        },
        "active_negative": {
            "mnist": Preset({"alpha": 1.0, "beta": 1.0}, _ANL + "mnist_anl_ce.json"),
            "cifar10": Preset({"alpha": 5.0, "beta": 5.0}, _ANL + "cifar10_anl_ce.json"),
            "cifar10_focal": Preset(
                {"alpha": 5.0, "beta": 5.0, "gamma": 0.5}, _ANL + "cifar10_anl_fl.json"
            ),
            "cifar100": Preset({"alpha": 10.0, "beta": 1.0}, _ANL + "cifar100_anl_ce.json"),
            "cifar100_focal": Preset(
                {"alpha": 10.0, "beta": 1.0, "gamma": 0.5}, _ANL + "cifar100_anl_fl.json"
            ),
            "webvision": Preset({"alpha": 20.0, "beta": 1.0}, _ANL + "webvision_anl_ce.json"),
        },
        "asymmetric_generalized_cross_entropy": {
            "mnist": Preset({"a": 4.0, "q": 0.2}, _ALF),
            "cifar10": Preset({"a": 0.6, "q": 0.6}, _ALF),
            "cifar100": Preset({"a": 0.6, "q": 0.6}, _ALF),
            "webvision": Preset({"a": 1e-5, "q": 0.5}, _EPSILON),
        },
        "asymmetric_unhinged": {
            "mnist": Preset({"a": 3.0, "q": 0.1}, _ALF),
            "cifar10": Preset({"a": 5.5, "q": 3.0}, _ALF),
            "cifar100": Preset({"a": 5.5, "q": 3.0}, _ALF),
        },
        "asymmetric_exponential": {
            "mnist": Preset({"a": 3.5}, _ALF),
            "cifar10": Preset({"a": 2.5}, _ALF),
            "cifar100": Preset({"a": 2.5}, _ALF),
        },
        "epsilon_softmax": {
            name: Preset({"m": m, "alpha": alpha, "beta": beta}, _EPSILON)
            for name, m, alpha, beta in (
                ("cifar10", 1e5, 0.01, 5.0),
                ("cifar10_asymmetric", 1e3, 0.02, 5.0),
                ("cifar10_instance", 1e5, 0.045, 10.0),
                ("cifar100_clean", 1e4, 0.1, 1.0),
                ("cifar100_symmetric20", 1e4, 0.05, 1.0),
                ("cifar100_symmetric40", 1e4, 0.03, 1.0),
                ("cifar100_symmetric60", 1e4, 0.00125, 1.0),
                ("cifar100_symmetric80", 1e4, 0.0075, 1.0),
                ("cifar100_asymmetric40", 1e2, 0.004, 1.0),
                ("webvision", 1e3, 0.015, 0.3),
                ("clothing1m", 1e3, 0.012, 0.1),
            )
        },
        # Scaled to the norm delta where it is longer: the authors' own repository scales to
        # 1 / delta, where these would be other losses.
        "logit_clip": {
            name: Preset({"max_norm": delta}, "Wei et al. 2023, as compared with in " + _EPSILON)
            for name, delta in (
                ("cifar10", 1.0),
                ("cifar10_symmetric60", 1.5),
                ("cifar10_asymmetric", 2.5),
                ("cifar10_instance", 2.0),
                ("cifar100", 0.5),
                ("cifar100_asymmetric", 2.5),
                ("webvision", 1.2),
            )
        },
        "generalized_jensen_shannon": {
            f"{name}{rate}": Preset(
                {"label_weight": weight}, f"{_GJS}{folder}/sym/gjs-{rate}.yaml; two views"
            )
            for name, folder, weights in (
                ("cifar10_symmetric", "C10", (0.3, 0.9, 0.1)),
                ("cifar100_symmetric", "C100", (0.3, 0.5, 0.9)),
            )
            for rate, weight in zip((20, 40, 60), weights, strict=True)
        },
        "early_learning_regularization": {
            "cifar10": Preset({"beta": 0.7, "strength": 3.0}, _ELR + "ELR/config_cifar10.json"),
            "cifar10_asymmetric": Preset(
                {"beta": 0.9, "strength": 1.0}, _ELR + "ELR/config_cifar10_asym.json"
            ),
            "cifar100": Preset({"beta": 0.9, "strength": 7.0}, _ELR + "ELR/config_cifar100.json"),
        },
        "joint_optimization": {
            "cifar10_symmetric70": Preset({"alpha": 1.2, "beta": 0.8}, _JOINT),
            "cifar10_asymmetric40": Preset({"alpha": 0.8, "beta": 0.4}, _JOINT),
        },
        # Class imbalance. lt100: exponential profile, the commonest class 100 times the rarest.
        "ldam": {
            name: Preset({"max_margin": 0.5, "scale": 30.0}, _LDAM)
            for name in ("cifar10_lt100", "cifar100_lt100")
        },
        "class_balanced_focal_loss": {
            "cifar10_lt100": Preset(
                {"beta": 0.9999, "gamma": 1.0}, _BAG + "cbfocal/cifar10_im100.yaml"
            ),
            "cifar100_lt100": Preset(
                {"beta": 0.9, "gamma": 1.0}, _BAG + "cbfocal/cifar100_im100.yaml"
            ),
        },
        "class_balanced_weights": {
            "cifar10_lt100": Preset({"beta": 0.9999}, _BAG + "cbce/cifar10_im100.yaml"),
            "cifar100_lt100": Preset({"beta": 0.9}, _BAG + "cbce/cifar100_im100.yaml"),
        },
        "deferred_reweighting_weights": {
            name: Preset({"start_epoch": 160, "beta": 0.9999}, _LDAM + "; of 200 epochs")
            for name in ("cifar10_lt100", "cifar100_lt100")
        },
        "softmax_focal_loss": {
            "cifar10": Preset({"gamma": 3.0}, _CALIBRATION + ": best calibrated"),
            "cifar10_lt100": Preset({"gamma": 1.0}, _LDAM),
            "cifar100_lt100": Preset({"gamma": 1.0}, _LDAM),
        },
        "softmax_cross_entropy_with_integer_labels": {
            "cifar10": Preset({"label_smoothing": 0.05}, _CALIBRATION),
        },
        "logit_adjusted": {
            name: Preset({"tau": 1.0}, _LOGIT) for name in ("cifar10_lt100", "cifar100_lt100")
        },
        "vector_scaling": {"cifar10_lt100": Preset({"gamma": 0.2, "tau": 1.2}, _VS)},
        "class_dependent_temperature": {
            f"{name}_lt100": Preset({"gamma": 0.2}, f"{_BAG}cdt/{name}_im100.yaml")
            for name in ("cifar10", "cifar100")
        },
        "label_aware_smoothing": {
            name: Preset(
                {"head_smoothing": head, "tail_smoothing": tail},
                f"{_MISLAS}{path}_stage2_mislas.yaml",
            )
            for name, head, tail, path in (
                ("cifar10_lt100", 0.3, 0.0, "cifar10/cifar10_imb001"),
                ("cifar100_lt100", 0.4, 0.1, "cifar100/cifar100_imb001"),
                ("imagenet_lt", 0.3, 0.0, "imagenet/imagenet_resnet50"),
            )
        },
        "influence_balanced": {
            name: Preset({"alpha": 1000.0, "epsilon": 1e-3}, _IB)
            for name in ("cifar10_lt100", "cifar100_lt100")
        },
        "distribution_balanced": {
            "coco_mlt": Preset(
                {"mu": 0.2, "negative_scale": 2.0, "gamma": 2.0},
                _DB + "coco/LT_resnet50_pfc_DB.py",
            ),
            "voc_mlt": Preset(
                {"mu": 0.3, "negative_scale": 5.0, "gamma": 2.0},
                _DB + "voc/LT_resnet50_pfc_DB.py",
            ),
        },
        "asymmetric_loss": {
            "coco": Preset(
                {"gamma_negative": 4.0, "gamma_positive": 0.0, "clip": 0.05},
                "Ben-Baruch et al. 2020; github.com/Alibaba-MIIL/ASL, train.py",
            ),
        },
        # Teachers, views and adversaries.
        "distillation": {"mnist": Preset({"temperature": 20.0}, "Hinton et al. 2015, section 3")},
        "decoupled_distillation": {
            "cifar100": Preset(
                {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
                _DKD + "mdistiller/engine/cfg.py; ResNet32x4 to ResNet8x4",
            ),
            "imagenet": Preset(
                {"alpha": 1.0, "beta": 0.5, "temperature": 1.0},
                _DKD + "configs/imagenet/r34_r18/dkd.yaml",
            ),
        },
        "ntxent": {
            "cifar10": Preset({"temperature": 0.5}, _SIMCLR),
            "imagenet": Preset({"temperature": 0.1}, _SIMCLR),
        },
        "supervised_contrastive": {"cifar10": Preset({"temperature": 0.1}, _SUPCON)},
        "multi_similarity": {
            "cub200": Preset(
                {"alpha": 2.0, "beta": 40.0, "threshold": 0.5, "mining_margin": 0.1},
                _MS + "losses/multi_similarity_loss.py and config/defaults.py",
            ),
        },
        "trades": {
            "mnist": Preset({"beta": 1.0}, _TRADES + "mnist.py"),
            "cifar10": Preset({"beta": 6.0}, _TRADES + "cifar10.py"),
        },
        "pgd": {
            "mnist": Preset({"epsilon": 0.3, "step_size": 0.01, "steps": 40}, _TRADES + "mnist.py"),
            "cifar10": Preset(
                {"epsilon": 0.031, "step_size": 0.007, "steps": 10}, _TRADES + "cifar10.py"
            ),
        },
    }
)
"""By loss and name: every published setting that was read at its source."""
