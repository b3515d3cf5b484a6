"""The story in one page: images in, Explanation out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.activation import Activation, declared_activation, resolved_activation
from vitscope.attribution import Attribution, Explanation, Subject
from vitscope.errors import MethodError, ModelError, TargetError, VitscopeError
from vitscope.evidence import Evidence
from vitscope.images import Batch, Preprocessing, prepare
from vitscope.methods import CDAM, Method, Wanted, as_method, choose
from vitscope.models import Anatomy, Precision, Running, anatomy_of
from vitscope.models.placed import once_for_each_size
from vitscope.models.state import ModelState
from vitscope.opening import fields_of, names_of, opened, random_picture
from vitscope.outcome import Progress, Seen, attribute, deaf, refuse, undefined
from vitscope.passes import Passes
from vitscope.provenance import covered_by, provenance_of
from vitscope.targets import ClassNames, Concept, EachConcept, Predicted, Probability, Target, Text, as_target
from vitscope.targets.target import TargetLike
from vitscope.targets.text import check_text, tokens_on
from vitscope.trace import Effects, Needs, as_bytes, effects_on_features, left_as_found, record, verify
from vitscope.trace.guard import fitted


class Explainer:
    """Explains what a vision transformer's output rests on.

    Each call first checks whether the modules or weights of the model changed since its description was verified, by
    version counters and a sample of values. If so, the model is described and verified again.

    Example:
        >>> from vitscope.datasets import Scenes
        >>> explainer = Explainer("scenes")  # or "timm/vit_tiny_patch16_224", or a module of your own
        >>> ex = explainer([Scenes(1, seed=7)[0].image], methods=["daam", "agcam"])  # or "photo.jpg"
        >>> ex["daam"].values.shape
        torch.Size([1, 12, 12])

    Attributes:
        anatomy: what was found where in the model.
        preprocessing: how pictures become the model's input.
        names: the names of the model's outputs.
        activation: what turns the outputs into probabilities: "softmax", "sigmoid", or "none".
        passes: runs batches, in parts where memory is limited.
        description_error: largest relative error between the description and the model's own numbers.
    """

    def __init__(
        self,
        model: nn.Module | Anatomy | str,
        weights: str | os.PathLike[str] | None = None,
        *,
        pretrained: bool = True,
        labels: ClassNames | str | os.PathLike[str] | None = None,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        tokenizer: Callable[[Sequence[str]], Any] | None = None,
        running: Running | Precision = "float32",
        memory_limit: int | str | None = None,
        activation: Activation | None = None,
        weights_key: str | None = None,
    ) -> None:
        """Understand the model, and hold what was understood against one pass over a random picture.

        Args:
            model: an nn.Module, what `adapt` says of one, or a name such as "timm/vit_tiny_patch16_224",
                "hf/google/vit-base-patch16-224" or a directory; `vitscope.models.load` lists the forms.
            weights: for a name, and for no nn.Module: a .safetensors, .pth or .bin file.
            pretrained: for a name without weights: fetch the published ones from the hub.
            labels: names of the outputs, or a labels file; otherwise the model's own (timm's
                `pretrained_cfg["label_names"]`, transformers' `config.id2label`, torchvision's categories), or
                ImageNet's for a model of 1000 outputs.
            preprocessing: instead of the model's own, or some of its fields (`{"crop_pct": 1.0}`).
            device: where a model given by name shall run; an nn.Module stays where it is, and where that is another
                one, a warning in the log says so.
            tokenizer: texts -> what the model's text tower takes, where the model has one and its own tokenizer is not
                found.
            running: how the model is run: a precision, "bf16" or "fp16" in place of "float32", or a `Running`. The
                model and its weights stay as they are, and maps are in float32 all the same.
            memory_limit: what a pass may take on the model's device beside the weights and the pictures, in bytes or
                as "4GB": a batch that takes more is explained in several passes, with the same maps.
            activation: what turns the outputs into probabilities, "softmax", "sigmoid" or "none", instead of what the
                model declares (transformers' `config.problem_type`); where that is nothing, "softmax", and "none" for a
                single output.
            weights_key: which set of weights to use of a file with several ("state_dict", "model_ema"); otherwise the
                averaged ones (EMA) before the raw ones, as timm's loader does, and a warning in the log names them.

        Raises:
            ModelError: the model cannot be loaded, or is not understood, or torch has no such precision on its device,
                or weights are given for an nn.Module, or the activation is undefined for its outputs.
            TargetError: the labels cannot be read, or are not as many as the outputs.
            VitscopeError: the memory limit is no amount of memory.
        """
        limit = None if memory_limit is None else as_bytes(memory_limit)
        self.source: dict[str, str | None] = {
            "model": model if isinstance(model, str) else None,
            "weights": None if weights is None else str(weights),
        }
        loaded = opened(model, weights, pretrained, preprocessing, device, weights_key)
        self.source["weights_key"] = loaded.weights_key
        if loaded.source:
            self.source["source"] = loaded.source
        self._model = loaded.model  # the anatomy's model or a module around it, such as one with a text tower
        self._own_description = model if isinstance(model, Anatomy) else None
        self._tokenizer = tokenizer or loaded.tokenizer
        self._running, self._limit = Running.of(running), limit
        self._labels, self._model_names = labels, loaded.names
        self._asked_activation, self._declared = activation, loaded.activation
        anatomy = self._own_description or anatomy_of(self._model)
        self.preprocessing = (
            preprocessing
            if isinstance(preprocessing, Preprocessing)
            else loaded.preprocessing_with(fields_of(preprocessing, loaded, anatomy))
        )
        self._verify(anatomy)

    def _verify(self, anatomy: Anatomy) -> None:
        """Verify a description of the model as it is now, and use it from now on; if it fails, nothing changes."""
        state = ModelState(self._model)
        verified = verify(anatomy.exact, random_picture(self.preprocessing.size))
        self._running.check(anatomy.model)
        names = names_of(self._labels, self._model_names, verified.outputs)
        declared = self._declared or anatomy.activation or declared_activation(anatomy.model)
        activation = resolved_activation(self._asked_activation, declared, verified.outputs)
        placement = once_for_each_size(anatomy.placement)
        placement(self.preprocessing.size)  # raises where maps could not be placed
        self.names, self.activation, self.description_error = names, activation, verified.error
        self.anatomy: Anatomy = dataclasses.replace(
            anatomy,
            outputs=verified.outputs,
            running=self._running,
            differentiable=verified.differentiable,
            activation=activation,
            placement=placement,
        )
        self.passes = Passes(self.anatomy, self._limit)
        self._verified_state = state.after_passes(ModelState(self._model))

    def _follow_changes(self) -> None:
        """Describe and verify the model again if its modules or weights changed since they were verified.

        Raises:
            ModelError: the model can no longer be described.
        """
        with left_as_found(self._model):
            if ModelState(self._model) == self._verified_state:
                return
            try:
                self._verify(self._own_description or anatomy_of(self._model))
            except ModelError as error:
                with torch.no_grad():  # an error of the model itself reaches the caller as it is
                    self.anatomy.forward(fitted(random_picture(self.preprocessing.size), self.anatomy.model))
                raise ModelError(
                    f"{self.anatomy.name} changed after this Explainer was built, and cannot be explained as it is "
                    f"now: {error}"
                ) from error

    def __call__(
        self,
        images: Any,
        methods: Wanted = "daam,agcam,cdam",
        target: TargetLike = None,
        *,
        strict: bool = True,
        max_forwards: int | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Explain `images` by all `methods` in one pass, or in as many as a memory limit asks for.

        Args:
            images: a path, a file's bytes, a PIL image or uint8 array, or a list of these, through the model's own
                preprocessing; or a float tensor (b 3 H W), taken as already normalised.
            methods: names ("daam", "agcam:scores=softmax"), methods, or a list of these; "all", or a family's name
                ("cam"; "family:attention" where a method has that name), for a group of methods. Those of a group that
                are not defined for this model, or that would ignore the target, are left out, with the reason in
                `failures`.
            target: None for the predicted class, a class index, a class name or (for CLIP-like models) a text, one an
                image, a Target, or a function of the output.
            strict: raise where a method fails; otherwise keep the reason in `failures` and go on with the others. A
                method fails for the whole batch where the map of any one image is flat or not finite; the reason names
                the image, and the others have their maps without it.
            max_forwards: of a picture, for each method that samples altered ones and is not given its own.
            progress: is told, by a method that runs the model on altered pictures: its label, forwards done, and of
                how many.

        Raises:
            ImageError: an image cannot be read.
            MethodError: an unknown method, or one that is not defined for this model.
            TargetError: a target that does not exist, does not fit the batch, or that a class-agnostic method ignores.
            FlatMapError: a map is constant or not finite.
            ModelError: the model changed and can no longer be described.
        """
        (explanation,) = self.each(
            images, methods, [target], strict=strict, max_forwards=max_forwards, progress=progress
        )
        return explanation

    def each(
        self,
        images: Any,
        methods: Wanted = "daam,agcam,cdam",
        targets: Sequence[TargetLike] = (None,),
        *,
        strict: bool = True,
        max_forwards: int | None = None,
        progress: Progress | None = None,
    ) -> list[Explanation]:
        """Explain `images` for several targets: one forward pass, and a backward pass for several where one is needed.

        Args:
            images: as for a call.
            methods: as for a call.
            targets: each as for a call; one explanation is given for each.
            strict, max_forwards, progress: as for a call.

        Raises:
            as a call.
        """
        chosen = choose(methods).within(max_forwards)
        self._follow_changes()
        if isinstance(targets, str) or not isinstance(targets, Iterable):
            raise TargetError(
                f"targets={targets!r} is one target and no list; give [{targets!r}], or call the explainer"
            )
        aims = [self.target(target) for target in targets]
        if not aims:
            raise TargetError("no target is given; name one, or None for the predicted class")
        refused = refuse(self.anatomy, chosen, aims, strict)
        batch = prepare(images, self.preprocessing)
        running = {label: method for label, method in chosen.methods.items() if label not in refused}
        needs = reduce(Needs.__or__, (method.needs for method in running.values()))
        seen, maps = self.passes.explain(batch.tensor, needs, aims, running, strict, progress)
        explanations = []
        for slot, aim in enumerate(aims):
            subject = self._subject_of(batch, seen, aim)
            attributions, failures = {}, {label: str(error) for label, error in refused.items()}
            for label, method in running.items():
                if reason := deaf(label, method, seen, aim, subject):
                    if strict and label not in chosen.grouped:
                        raise TargetError(reason)
                    failures[label] = reason
            left_out = chosen.grouped & failures.keys()
            for label, method in running.items():
                if label in failures:
                    continue
                try:
                    attributions[label] = attribute(label, method, maps[label], seen, slot, subject)
                except VitscopeError as error:
                    if strict:
                        raise
                    failures[label] = str(error)
            if strict and not attributions:
                raise TargetError(next(iter(failures.values())))
            explanations.append(Explanation(subject, attributions, failures, left_out))
        return explanations

    def features(self, images: Any) -> Tensor:
        """The features of `images`, (b F): what the classifier reads; without a classifier, the model's output.

        Raises:
            ImageError: an image cannot be read.
        """
        self._follow_changes()
        tensor = prepare(images, self.preprocessing).tensor
        found = self.passes.over(
            tensor,
            "features",
            lambda start, stop: record(self.anatomy, tensor[start:stop], Needs(), [Predicted()]).features,
        )
        return torch.cat(found)

    def evidence(self, images: Any) -> Evidence:
        """CDAM of every class at once, for little more than one forward pass; see `Evidence`.

        Args:
            images: as for a call.

        Raises:
            ImageError: an image cannot be read.
            MethodError: no one row of the last block leads to the output, which the closed form needs.
        """
        self._follow_changes()
        if reason := self.why_not("evidence", CDAM()):
            raise MethodError(reason)
        if self.anatomy.rows_read is None:
            raise MethodError(
                f"evidence of every class needs one row of the last block that is read, and the head of "
                f"{self.anatomy.name} pools all tokens; use cdam with the targets that you ask for"
            )
        batch = prepare(images, self.preprocessing)
        found = Effects.join(
            self.passes.over(
                batch.tensor,
                "evidence",
                lambda start, stop: effects_on_features(self.anatomy, batch.tensor[start:stop]),
            )
        )
        subject = self._subject(batch, found.logits, found.grid, None, "every class")
        effects = self.anatomy.placement(batch.size).upright(found.effects.movedim(3, 1)).movedim(1, 3)
        classifier = self.anatomy.classifier
        weight = None if classifier is None else classifier.weight.detach().clone()  # the model may change afterwards
        return Evidence(subject, effects, found.features, weight)

    def target(self, target: TargetLike) -> Target:
        """The target that a user's words mean for this model: a class, or a text where it has a text tower.

        Raises:
            TargetError: an unknown class, a class or its probability for a model that has none, an empty text, or a
                text for a model that reads none.
            ModelError: the model's tokenizer cannot be read.
        """
        words = _words_in(target)
        if self.anatomy.texts is not None and words and self._are_texts(words):
            texts = [word if isinstance(word, Text) else Text.of_words(word) for word in words]
            return self._of_texts(texts, one_for_all=isinstance(target, str | Text))
        if not self.anatomy.outputs and any(isinstance(word, str) for word in words):
            way = "a text as the target, or " if self.anatomy.texts else ""
            raise TargetError(
                f"{target!r}: {self.anatomy.name} has no classifier, so that it has no classes; give {way}a memory "
                "bank (Neighbours, or --bank)"
            )
        aim = as_target(target, self.names)
        return self._with_activation(aim) if isinstance(aim, Probability) else aim

    def _are_texts(self, words: Sequence[str | Text]) -> bool:
        """Whether a target in words is of texts: without a classifier, all but numbers are."""
        if self.anatomy.outputs:
            return all(isinstance(word, Text) for word in words)
        return not any(isinstance(word, str) and word.strip().isdecimal() for word in words)

    def _of_texts(self, texts: Sequence[Text], one_for_all: bool) -> Target:
        vectors = iter(self.texts([part for text in texts for part in text.parts]))
        directions = [next(vectors) if text.rather_than is None else next(vectors) - next(vectors) for text in texts]
        if one_for_all:
            return Concept(directions[0], similarity="cosine", name=str(texts[0]))
        return EachConcept(torch.stack(directions), tuple(map(str, texts)))

    def _with_activation(self, aim: Probability) -> Probability:
        """The probability by the model's own activation, where the target does not name one."""
        activation = aim.activation or self.activation
        if activation == "none":
            raise TargetError(
                f"{aim.describe(self.names)}: the outputs of {self.anatomy.name} are no probabilities, as those of a "
                "regression or a single output; explain the output itself, or give the activation sigmoid or softmax "
                "(Explainer(activation=...), --activation)"
            )
        return dataclasses.replace(aim, activation=activation)

    def texts(self, prompts: str | Sequence[str]) -> Tensor:
        """The embeddings of texts, of length 1, (t F): as targets, or for `Evidence.of`.

        Raises:
            TargetError: the model has no text tower, no tokenizer is at hand or one that gives no tensors, or a text
                is empty.
            ModelError: its tokenizer cannot be read.
        """
        self._follow_changes()
        if self.anatomy.texts is None:
            raise TargetError(f"{self.anatomy.name} has no text tower; give a class, or use a CLIP-like model")
        if self._tokenizer is None:
            raise TargetError(f"the tokenizer of {self.anatomy.name} is not known; give Explainer(tokenizer=...)")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        for text in texts:
            check_text(text)
        tokens = tokens_on(next(self.anatomy.model.parameters()).device, self._tokenizer(texts))
        with left_as_found(self.anatomy.model), left_as_found(self._model), torch.no_grad():
            embedded = self.anatomy.texts(tokens)
        return F.normalize(embedded.float(), dim=-1)

    def why_not(self, label: str, method: Method) -> str:
        """Why `method` is not defined for this model, or "" where it is.

        Raises:
            MethodError: it is no method, or has an option that is not understood.
        """
        choose({label: method})
        return undefined(self.anatomy, label, method)

    def _subject_of(self, batch: Batch, seen: Seen, aim: Target) -> Subject:
        classes = aim.classes(seen.logits) if self.anatomy.outputs else None
        subject = self._subject(batch, seen.logits, seen.grid, classes, self.in_words(aim))
        return dataclasses.replace(subject, each_asked=aim.each_name) if isinstance(aim, EachConcept) else subject

    def in_words(self, aim: Target) -> str:
        """What a manifest calls the target."""
        if not isinstance(aim, Predicted) or (self.anatomy.outputs and self.activation != "none"):
            return aim.describe(self.names)
        if not self.anatomy.outputs:
            return "what any target would give"
        return self.names[0] if self.anatomy.outputs == 1 else "the highest output"

    def _subject(
        self, batch: Batch, logits: Tensor, grid: tuple[int, int], target: Tensor | None, asked: str
    ) -> Subject:
        covered = covered_by(self.anatomy, batch, grid)
        placement = self.anatomy.placement(batch.size)
        provenance = provenance_of(self.anatomy, self.preprocessing, self.source, placement.turned(grid))
        return Subject(batch, covered, logits, self.anatomy.outputs > 0, target, asked, self.names, provenance)


def _words_in(target: TargetLike) -> Sequence[str | Text]:
    """The words of a target in words, or of a list of these; empty for any other."""
    if isinstance(target, str | Text):
        return [target]
    if isinstance(target, Sequence) and all(isinstance(entry, str | Text) for entry in target):
        return target  # type: ignore[return-value]
    return []


def explain(
    model: nn.Module | Anatomy | str,
    images: Any,
    method: str | Method = "daam",
    target: TargetLike = None,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
) -> Attribution:
    """Explain `images` by one method: one line, one Attribution; see `Explainer`.

    Raises:
        as an Explainer and its call; ModelError where `weights` are given for an nn.Module.
    """
    if isinstance(method, str):
        as_method(method)  # which refuses a group
    explanation = Explainer(model, weights, weights_key=weights_key)(images, methods=[method], target=target)
    return next(iter(explanation.attributions.values()))
