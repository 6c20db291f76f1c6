"""Lightning module that trains an image tokenizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig, PatchDiscriminator, channels_last
from maskgen.autoencoders.losses import FeatureLoss, discriminator_hinge, generator_hinge, pyramid_l1
from maskgen.autoencoders.quantizers import Quantized, Quantizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.training.modules.optim import warmup_cosine


class ImageAutoencoderModule(L.LightningModule):
    """Trains an ImageAutoencoder; every loss but the reconstruction has a switch.

    Args:
        autoencoder: Sizes of encoder and decoder.
        quantizer: What sits between them.
        max_steps: Length of the learning-rate schedule, in autoencoder steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        pyramid_levels: Scales of the reconstruction loss.
        perceptual: Network of the perceptual loss, or none.
        perceptual_weight: Its weight.
        discriminator: Network of the adversarial loss, or none.
        adversarial_weight: Its weight.
        adversarial_from: Step at which the adversarial loss sets in.
        compile: Parts to compile with torch.compile: "autoencoder", "perceptual".
        start: Bundle of a tokenizer whose weights initialise this one; encoder and quantizer must have the same sizes. A decoder of other
            sizes starts from random weights.
        decoder_only: Train the decoder only: codes don't change, so shards and models made with them stay valid. Needs `start`.

    Raises:
        ValueError: If `start` is not an image tokenizer, does not fit, or is missing for `decoder_only`.

    Source: VQGAN, arXiv:2012.09841, with a constant adversarial weight; training only the decoder further as in Muse, arXiv:2301.00704.
    """

    def __init__(
        self,
        autoencoder: ImageAutoencoderConfig,
        quantizer: Quantizer,
        max_steps: int = 20_000,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        pyramid_levels: int = 3,
        perceptual: FeatureLoss | None = None,
        perceptual_weight: float = 0.1,
        discriminator: PatchDiscriminator | None = None,
        adversarial_weight: float = 0.05,
        adversarial_from: int = 10_000,
        compile: Sequence[Literal["autoencoder", "perceptual"]] = (),
        start: str | None = None,
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = channels_last(ImageAutoencoder(autoencoder, quantizer))
        self.decoder_only = decoder_only
        if decoder_only and start is None:
            raise ValueError("decoder_only needs the tokenizer whose decoder is to be trained on; give start: its bundle")
        if start is not None:
            _start_from(self.network, start)
        if decoder_only:
            self.network.encoder.requires_grad_(False)
            self.network.quantizer.requires_grad_(False)
        self.perceptual, self.discriminator = perceptual, discriminator
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay, self.clip = max_steps, lr, warmup_steps, weight_decay, clip
        self.pyramid_levels, self.perceptual_weight = pyramid_levels, perceptual_weight
        self.adversarial_weight, self.adversarial_from = adversarial_weight, adversarial_from
        ours = "autoencoder" in compile
        self._encode: Any = torch.compile(self.network.encode) if ours else self.network.encode
        self._decode: Any = torch.compile(self.network.decode) if ours else self.network.decode
        self.size: tuple[int, int] | None = None
        """(width, height) of the training images; known from the first batch on."""
        self._perceive: Any = torch.compile(perceptual.forward) if perceptual and "perceptual" in compile else perceptual

    def configure_optimizers(self) -> Any:
        """AdamW for the autoencoder and, where there is one, for the discriminator."""
        trained = [[parameter for parameter in self.network.parameters() if parameter.requires_grad]]
        if self.discriminator is not None:
            trained.append(list(self.discriminator.parameters()))
        optimizers = [
            torch.optim.AdamW(part, lr=self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay, fused=True) for part in trained
        ]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, warmup_cosine(self.warmup_steps, self.max_steps)) for o in optimizers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export` needs beside the weights."""
        quantizer = self.network.quantizer
        config = dataclasses.asdict(self.network.config)
        checkpoint["maskgen"] = {
            "kind": "image_tokenizer",
            "autoencoder": config,
            "quantizer": type(quantizer).__name__,
            "quantizer_args": quantizer.args,
            **({} if self.size is None else {"size": list(self.size)}),
        }

    def training_step(self, batch: Float[Tensor, "batch 3 rows columns"], batch_index: int) -> None:
        """One step of the autoencoder, then one of the discriminator once it has set in."""
        optimizers, schedulers = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        pixels, self.size = batch.to(memory_format=torch.channels_last), (batch.shape[3], batch.shape[2])
        adversarial = self.discriminator is not None and schedulers[0].last_epoch >= self.adversarial_from
        rebuilt = self._autoencoder_step(pixels, optimizers[0], adversarial)
        schedulers[0].step()
        if adversarial:
            self._discriminator_step(pixels, rebuilt, optimizers[1])
            schedulers[1].step()

    def _autoencoder_step(self, pixels: Tensor, optimizer: Any, adversarial: bool) -> Tensor:
        """Update encoder, quantizer and decoder; return the reconstruction without gradient."""
        quantized = self._quantized(pixels)
        rebuilt: Tensor = self._decode(quantized.values, self.network.grid(pixels)).float()
        reconstruction = pyramid_l1(rebuilt, pixels, self.pyramid_levels)
        loss = reconstruction + quantized.loss
        self.log_dict({"train/reconstruction": reconstruction, "train/commitment": quantized.loss}, prog_bar=True, sync_dist=True)
        if self.perceptual is not None:
            perceptual = self._perceive(rebuilt, pixels)
            loss = loss + self.perceptual_weight * perceptual
            self.log("train/perceptual", perceptual, sync_dist=True)
        if adversarial:
            assert self.discriminator is not None, "an adversarial step needs a discriminator"
            fooled = generator_hinge(self.discriminator(rebuilt))
            loss = loss + self.adversarial_weight * fooled
            self.log("train/adversarial", fooled, sync_dist=True)
        self._update(loss, optimizer, self.network)
        return rebuilt.detach()

    def _quantized(self, pixels: Tensor) -> Quantized:
        """Input of the decoder; if only the decoder is trained, the codebook must not follow the batch."""
        if not self.decoder_only:
            found: Quantized = self.network.quantizer(self._encode(pixels))
            return found
        self.network.quantizer.eval()
        with torch.no_grad():
            fixed: Quantized = self.network.quantizer(self._encode(pixels))
        return fixed._replace(loss=torch.zeros_like(fixed.loss))

    def _discriminator_step(self, pixels: Tensor, rebuilt: Tensor, optimizer: Any) -> None:
        """Update the discriminator."""
        assert self.discriminator is not None, "a discriminator step needs a discriminator"
        loss = discriminator_hinge(self.discriminator(pixels), self.discriminator(rebuilt))
        self.log("train/discriminator", loss, sync_dist=True)
        self._update(loss, optimizer, self.discriminator)

    def _update(self, loss: Tensor, optimizer: Any, network: nn.Module) -> None:
        """Backward, clip, step, clear."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        optimizer.step()

    def validation_step(self, batch: Float[Tensor, "batch 3 rows columns"], batch_index: int, dataloader_idx: int = 0) -> None:
        """Log reconstruction error and code usage on held-out images."""
        quantized = self.network.quantizer(self.network.encode(batch))
        rebuilt = self.network.decode(quantized.values, self.network.grid(batch)).float().clamp(0, 1)
        mse = (rebuilt - batch).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
        errors = {"val/l1": (rebuilt - batch).abs().mean(), "val/psnr_db": (-10 * mse.log10()).mean()}
        self.log_dict(errors, prog_bar=True, batch_size=len(batch), sync_dist=True)
        for level in range(quantized.codes.shape[1]):
            counts = torch.bincount(quantized.codes[:, level].flatten(), minlength=self.network.quantizer.codebook_size).float()
            share = counts / counts.sum()
            perplexity = torch.exp(-(share * share.clamp(min=1e-10).log()).sum())
            self.log(f"val/code_perplexity_level{level}", perplexity, batch_size=len(batch), sync_dist=True)


def _as_list(value: Any) -> list[Any]:
    """Lightning returns a bare object where there is only one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _start_from(network: ImageAutoencoder, bundle: str) -> None:
    """Take the weights of a tokenizer; of its decoder only where the sizes agree.

    Raises:
        ValueError: If encoder or quantizer are of other sizes.
    """
    found, wanted = ImageTokenizer.from_bundle(bundle).network.state_dict(), network.state_dict()
    fits = {name for name, tensor in found.items() if name in wanted and wanted[name].shape == tensor.shape}
    codes = {name for name in (*found, *wanted) if not name.startswith("decoder.")}
    if codes - fits:
        raise ValueError(
            f"the tokenizer {bundle} has another encoder or quantizer than this training ({min(codes - fits)}); copy its sizes"
        )
    whole = {name for name in wanted if name.startswith("decoder.")} <= fits
    network.load_state_dict({name: found[name] if whole or name in codes else wanted[name] for name in wanted})
