"""Lightning module that trains an audio codec."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.audio import AudioAutoencoder, AudioAutoencoderConfig, SpectrumDiscriminators, Voice
from maskgen.autoencoders.losses import discriminator_hinge, generator_hinge, mel_distance, spectral_distance
from maskgen.autoencoders.quantizers import Quantized, Quantizer
from maskgen.autoencoders.spectra import pitch
from maskgen.tokenizers.audio import AudioTokenizer
from maskgen.training.modules.optim import warmup_cosine


class AudioAutoencoderModule(L.LightningModule):
    """Trains an AudioAutoencoder; every loss but the spectral one has a switch.

    In training the decoder's pulses follow the pitch of the original, so that filters can be learned before the codec's own pitch, which is
    learned at the same time, is right.

    Args:
        autoencoder: Sizes of encoder and decoder.
        quantizer: What sits between them.
        max_steps: Length of the learning-rate schedule.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        windows: Windows of the spectral loss, in samples.
        mel_weight: Weight of the log-mel loss; 0 is off.
        pitch_weight: Weight of pitch and voicing; 0 leaves the codec without a pitch of its own.
        discriminator: Network of the adversarial loss, or none.
        adversarial_weight: Its weight.
        feature_weight: Weight of the distance of the discriminator's features.
        adversarial_from: Step at which it sets in.
        quantize_from: Steps before this one leave the encoder's vectors unquantized. Quantized from the start, the vectors of speech
            fall into three dimensions and stay there (docs/log.md).
        start: Bundle of a codec of the same sizes whose weights initialise this one.
        decoder_only: Train the decoder only: codes don't change. Needs `start`.

    Raises:
        ValueError: If `start` does not fit, or is missing for `decoder_only`.

    Source: Vocos, arXiv:2306.00814 (losses); feature distances, arXiv:1910.06711.
    """

    def __init__(
        self,
        autoencoder: AudioAutoencoderConfig,
        quantizer: Quantizer,
        max_steps: int = 10_000,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        windows: Sequence[int] = (256, 512, 1024, 2048),
        mel_weight: float = 1.0,
        pitch_weight: float = 1.0,
        discriminator: SpectrumDiscriminators | None = None,
        adversarial_weight: float = 0.1,
        feature_weight: float = 1.0,
        adversarial_from: int = 2_000,
        quantize_from: int = 0,
        start: str | None = None,
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if decoder_only and start is None:
            raise ValueError("decoder_only needs the codec whose decoder is to be trained on; give start: its bundle")
        self.network = AudioAutoencoder(autoencoder, quantizer)
        if start is not None:
            _start_from(self.network, start)
        self.decoder_only = decoder_only
        if decoder_only:
            self.network.encoder.requires_grad_(False)
            self.network.quantizer.requires_grad_(False)
        self.discriminator = discriminator
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay, self.clip = max_steps, lr, warmup_steps, weight_decay, clip
        self.windows, self.mel_weight, self.pitch_weight = tuple(windows), mel_weight, pitch_weight
        self.quantize_from = quantize_from
        self.adversarial_weight, self.feature_weight, self.adversarial_from = adversarial_weight, feature_weight, adversarial_from

    def configure_optimizers(self) -> Any:
        """AdamW for the codec and, where there is one, for the discriminator."""
        trained = [[parameter for parameter in self.network.parameters() if parameter.requires_grad]]
        if self.discriminator is not None:
            trained.append(list(self.discriminator.parameters()))
        optimizers = [
            torch.optim.AdamW(part, lr=self.lr, betas=(0.8, 0.99), weight_decay=self.weight_decay, fused=True) for part in trained
        ]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, warmup_cosine(self.warmup_steps, self.max_steps)) for o in optimizers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export` needs beside the weights."""
        quantizer = self.network.quantizer
        checkpoint["maskgen"] = {
            "kind": "audio_tokenizer",
            "autoencoder": dataclasses.asdict(self.network.config),
            "quantizer": type(quantizer).__name__,
            "quantizer_args": quantizer.args,
        }

    def training_step(self, batch: Float[Tensor, "batch samples"], batch_index: int) -> None:
        """One step of the codec, then one of the discriminator once it has set in."""
        optimizers, schedulers = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        adversarial = self.discriminator is not None and self.lr_schedule_step >= self.adversarial_from
        rebuilt = self._codec_step(batch, optimizers[0], adversarial)
        schedulers[0].step()
        if adversarial:
            self._discriminator_step(batch, rebuilt, optimizers[1])
            schedulers[1].step()

    def _codec_step(self, waves: Tensor, optimizer: Any, adversarial: bool) -> Tensor:
        """Update encoder, quantizer and decoder; return the reconstruction without gradient."""
        config = self.network.config
        quantized = self._quantized(waves)
        voice = self.network.decoder(quantized.values)
        pitch_hz, voiced = pitch(waves, config.sample_rate_hz, config.hop, voice.shape.shape[1])
        with torch.autocast(waves.device.type, enabled=False):
            rebuilt = self.network.sound(voice.shape, pitch_hz, voiced, torch.randn_like(waves))
            spectral = spectral_distance(rebuilt, waves, self.windows)
            mel = mel_distance(rebuilt, waves, config.sample_rate_hz)
            tune, voicing = self._pitch_losses(voice, pitch_hz, voiced)
        loss = spectral + self.mel_weight * mel + self.pitch_weight * (tune + voicing) + quantized.loss
        self.log_dict({"train/spectral": spectral, "train/mel": mel, "train/commitment": quantized.loss}, prog_bar=True, sync_dist=True)
        self.log_dict({"train/pitch": tune, "train/voicing": voicing}, sync_dist=True)
        if adversarial:
            loss = loss + self._adversarial_loss(rebuilt, waves)
        self._update(loss, optimizer, self.network)
        return rebuilt.detach()

    @property
    def lr_schedule_step(self) -> int:
        """Steps of the codec so far; the trainer's own count includes the discriminator's."""
        return int(_as_list(self.lr_schedulers())[0].last_epoch)

    def _quantized(self, waves: Tensor) -> Quantized:
        """Input of the decoder; if only the decoder is trained, the codebook must not follow the batch."""
        if not self.decoder_only:
            values = self.network.encode(waves).float()
            if self.lr_schedule_step < self.quantize_from:
                return Quantized(values, torch.zeros(0, dtype=torch.long), values.new_zeros(()))
            found: Quantized = self.network.quantizer(values)
            return found
        self.network.quantizer.eval()
        with torch.no_grad():
            fixed: Quantized = self.network.quantizer(self.network.encode(waves).float())
        return fixed._replace(loss=torch.zeros_like(fixed.loss))

    def _pitch_losses(
        self, voice: Voice, pitch_hz: Float[Tensor, "batch frames"], voiced: Bool[Tensor, "batch frames"]
    ) -> tuple[Tensor, Tensor]:
        """Mean distance of the pitch in octaves over voiced frames, times 4; cross-entropy of the voicing."""
        distance = (voice.log_pitch - pitch_hz.log()).abs() / 0.6931
        tune = 4 * (distance * voiced).sum() / voiced.sum().clamp(min=1)
        return tune, functional.binary_cross_entropy_with_logits(voice.voicing, voiced.float())

    def _adversarial_loss(self, rebuilt: Tensor, waves: Tensor) -> Tensor:
        """What fools the discriminator, and the distance of its features."""
        assert self.discriminator is not None, "an adversarial step needs a discriminator"
        with torch.no_grad():
            real = self.discriminator(waves)
        fake = self.discriminator(rebuilt)
        fooled = torch.stack([generator_hinge(verdict) for verdict, _ in fake]).mean()
        pairs = [(a, b) for (_, ours), (_, theirs) in zip(fake, real, strict=True) for a, b in zip(ours, theirs, strict=True)]
        features = torch.stack([(a - b).abs().mean() / b.abs().mean().clamp(min=1e-3) for a, b in pairs]).mean()
        self.log_dict({"train/adversarial": fooled, "train/features": features}, sync_dist=True)
        return self.adversarial_weight * fooled + self.feature_weight * features

    def _discriminator_step(self, waves: Tensor, rebuilt: Tensor, optimizer: Any) -> None:
        """Update the discriminator."""
        assert self.discriminator is not None, "a discriminator step needs a discriminator"
        pairs = zip(self.discriminator(waves), self.discriminator(rebuilt), strict=True)
        loss = torch.stack([discriminator_hinge(real, fake) for (real, _), (fake, _) in pairs]).mean()
        self.log("train/discriminator", loss, sync_dist=True)
        self._update(loss, optimizer, self.discriminator)

    def _update(self, loss: Tensor, optimizer: Any, network: nn.Module) -> None:
        """Backward, clip, step, clear."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        optimizer.step()

    def validation_step(self, batch: Float[Tensor, "batch samples"], batch_index: int, dataloader_idx: int = 0) -> None:
        """Log errors with the codec's own pitch, and code usage, on held-out audio."""
        config = self.network.config
        quantized = self.network.quantizer(self.network.encode(batch).float())
        voice = self.network.decoder(quantized.values)
        pitch_hz, voiced = pitch(batch, config.sample_rate_hz, config.hop, voice.shape.shape[1])
        with torch.autocast(batch.device.type, enabled=False):
            noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0)).to(batch.device)
            rebuilt = self.network.sound(voice.shape, voice.log_pitch.exp().clamp(50, 600), voice.voicing > 0, noise)
            cents = 1200 * (voice.log_pitch - pitch_hz.log()).abs() / 0.6931
        found = {
            "val/mel": mel_distance(rebuilt, batch, config.sample_rate_hz),
            "val/spectral": spectral_distance(rebuilt, batch, self.windows),
            "val/pitch_cents": (cents * voiced).sum() / voiced.sum().clamp(min=1),
            "val/voicing_error": ((voice.voicing > 0) != voiced).float().mean(),
        }
        self.log_dict(found, prog_bar=True, batch_size=len(batch), sync_dist=True)
        for level in range(quantized.codes.shape[1]):
            counts = torch.bincount(quantized.codes[:, level].flatten(), minlength=self.network.quantizer.codebook_size).float()
            share = counts / counts.sum()
            perplexity = torch.exp(-(share * share.clamp(min=1e-10).log()).sum())
            self.log(f"val/code_perplexity_level{level}", perplexity, batch_size=len(batch), sync_dist=True)


def _as_list(value: Any) -> list[Any]:
    """Lightning returns a bare object where there is only one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _start_from(network: AudioAutoencoder, bundle: str) -> None:
    """Take the weights of a codec of the same sizes.

    Raises:
        ValueError: If a size differs.
    """
    found, wanted = AudioTokenizer.from_bundle(bundle).network.state_dict(), network.state_dict()
    wrong = sorted(name for name in {*found, *wanted} if name not in found or name not in wanted or found[name].shape != wanted[name].shape)
    if wrong:
        raise ValueError(f"the codec {bundle} has other sizes than this training ({wrong[0]}); copy its sizes")
    network.load_state_dict(found)
