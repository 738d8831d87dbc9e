"""What a config says, however its user wrote it."""

from mmengine.config import Config, ConfigDict


def type_name(cfg: object) -> str:
    """Name of the class that a config builds, without its scope.

    Args:
        cfg: A config whose ``type`` is a name such as 'mmseg.IoUMetric', or,
            in pure Python configs, a class.

    Returns:
        For example 'IoUMetric'; '' where there is no type.
    """
    kind = cfg.get('type', '') if isinstance(cfg, dict) else ''
    name = kind if isinstance(kind, str) else kind.__name__
    return name.split('.')[-1]


def model_config(cfg: Config) -> ConfigDict:
    """Config of the model that a Runner would build.

    mmpretrain's configs have the data preprocessor beside the model.

    Args:
        cfg: Complete config, which stays as it is.
    """
    model = ConfigDict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def metric_configs(evaluator: object) -> list[ConfigDict]:
    """Configs of the metrics of an evaluator, to read or to change.

    Args:
        evaluator: A list of metrics, one metric, a config with ``metrics``,
            or None.
    """
    if isinstance(evaluator, dict):
        evaluator = evaluator.get('metrics', evaluator)
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in metrics if isinstance(metric, dict)]
