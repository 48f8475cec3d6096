"""`strategy=fsdp2`: the weights of a large backbone sharded over the processes (PyTorch's FSDP2)."""

import copy
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

NAME = "fsdp2"
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedBackbone(ModelParallelStrategy):
    """Each process holds a part of the backbone's weights, of their gradients and of the optimiser's state.

    The weights of a block are gathered only while it computes. lin and the ranking network are small: every
    process holds all of them. Checkpoints have the format of a run without sharding, which may resume them.
    When training ends, the backbone is gathered: it must fit on one device, without gradients.

    Clipping of gradients and averaging of weights would see only parts: `train.py` refuses them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **kwargs)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Checkpoints are loaded before the weights are sharded."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning loads the optimiser's state."""
        return True

    def setup_environment(self) -> None:
        """Make one group of all processes."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the backbone, then make the optimiser."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if fits := trainer.state.fn == TrainerFn.FITTING:
            self._shard()
        self.model = self.precision_plugin.convert_module(self._ranker)
        self.model_to_device()
        self.barrier()
        if fits:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of what is not sharded; FSDP has averaged the others."""
        for parameter in self._ranker.parameters():
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                parameter.grad = self.reduce(parameter.grad)
        super().post_backward(closure_loss)

    def on_validation_start(self) -> None:
        """Send all processes the running means of the first, which checkpoints hold."""
        for buffer in self._ranker.distance.backbone.net.buffers():
            distributed.broadcast(buffer, 0)
        super().on_validation_start()

    def on_train_end(self) -> None:
        """Gather the backbone in all processes: the first scores it alone."""
        super().on_train_end()
        state = {
            name: _whole(value) for name, value in self._ranker.distance.backbone.net.state_dict().items()
        }
        training = self._ranker.distance.backbone.net.training
        self._plain.load_state_dict(state, assign=True)
        self._ranker.distance.backbone.net = self._plain.train(training)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read the file in every process."""
        return ParallelStrategy.load_checkpoint(self, *args, **kwargs)

    def load_model_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load weights that are not sharded yet."""
        ParallelStrategy.load_model_state_dict(self, *args, **kwargs)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state in the optimiser's numbering without sharding; complete on the first process."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        state: dict[str, Any] = get_optimizer_state_dict(self._ranker, optimizer, options=FULL)
        if not state:
            return {}
        number = {name: i for i, name in enumerate(self._names(optimizer))}
        groups = [
            {**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]
        ]
        return {"state": {number[name]: one for name, one in state["state"].items()}, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Shard the states of the optimisers."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            groups = [
                {**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]
            ]
            named: dict[str, Any] = {
                "state": {names[i]: one for i, one in state["state"].items()},
                "param_groups": groups,
            }
            set_optimizer_state_dict(self._ranker, optimizer, named, options=FULL)

    @property
    def _ranker(self) -> Any:
        return self.lightning_module

    def _shard(self) -> None:
        net = self._ranker.distance.backbone.net
        # the same network on the meta device, which takes the gathered weights at the end
        empty: dict[int, Any] = {
            id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()
        }
        self._plain = copy.deepcopy(net, empty)
        for parameter in net.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP does not support channels_last
        mesh = self.device_mesh["data_parallel"]
        # blocks of a row are called one after the other; inner rows first
        rows = [module for module in net.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
        for block in [child for row in reversed(rows) for child in row]:
            if not isinstance(block, nn.Sequential | nn.ModuleList) and any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)

    def _names(self, optimizer: Optimizer) -> list[str]:
        name = {parameter: name for name, parameter in self._ranker.named_parameters()}
        return [name[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


StrategyRegistry.register(NAME, ShardedBackbone, description="a large backbone sharded over the processes")
