"""The story in one page: images in, Explanation out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.activation import Activation, declared_activation, resolved_activation
from vitscope.any_network import (
    Inputs,
    Networks,
    Recorded,
    as_batch,
    as_weights,
    explanation_of,
    of_samples,
    record_any,
)
from vitscope.attribution import Attribution, Explanation, Subject
from vitscope.errors import MethodError, ModelError, RefusedError, TargetError, VitscopeError
from vitscope.evidence import Evidence
from vitscope.images import Batch, Preprocessing, prepare
from vitscope.methods import CDAM, Chosen, Method, Wanted, as_method, choose
from vitscope.models import Anatomy, Precision, Running, anatomy_of
from vitscope.models.anatomy import undescribed
from vitscope.models.placed import once_for_each_size
from vitscope.models.state import ModelState
from vitscope.network import NetworkSpec
from vitscope.opening import fields_of, names_of, opened, random_picture
from vitscope.outcome import Progress, Seen, attribute, deaf, refusals, refuse, undefined
from vitscope.passes import Passes
from vitscope.provenance import covered_by, provenance_of
from vitscope.targets import ClassNames, Concept, Custom, EachConcept, Predicted, Probability, Target, Text, as_target
from vitscope.targets.target import TargetLike
from vitscope.targets.text import check_text, tokens_on
from vitscope.trace import Effects, Needs, as_bytes, effects_on_features, left_as_found, record, verify
from vitscope.trace.guard import fitted
from vitscope.trace.verify import Verified


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
        if next(self._model.parameters(), None) is None:
            raise ModelError(f"{type(self._model).__name__} has no parameters; give a network")
        self._own_description = model if isinstance(model, Anatomy) else None
        self._tokenizer = tokenizer or loaded.tokenizer
        self._running, self._limit = Running.of(running), limit
        self._labels, self._model_names = labels, loaded.names
        self._asked_activation, self._declared = activation, loaded.activation
        self._networks = Networks(self._model, self._running)
        anatomy, self._undescribed = self._describe()
        self.preprocessing = (
            preprocessing
            if isinstance(preprocessing, Preprocessing)
            else loaded.preprocessing_with(fields_of(preprocessing, loaded, anatomy))
        )
        self._verify(anatomy)

    def _describe(self) -> tuple[Anatomy, str]:
        """A description of the model; or one that says nothing, and why there is no other."""
        if self._own_description is not None:
            return self._own_description, ""
        try:
            return anatomy_of(self._model), ""
        except RefusedError:
            raise
        except ModelError as error:
            return undescribed(self._model), str(error)

    def _verified(self, anatomy: Anatomy) -> tuple[Anatomy, Verified]:
        """A description and what was found of it; where it does not fit the model, one that says nothing."""
        try:
            if anatomy.described:
                return anatomy, verify(anatomy.exact, random_picture(self.preprocessing.size))
        except RefusedError:
            raise
        except ModelError as error:
            if self._own_description is not None:
                raise
            anatomy, self._undescribed = undescribed(self._model), str(error)
        return anatomy, Verified(0.0, 0)

    def _verify(self, anatomy: Anatomy) -> None:
        """Verify a description of the model as it is now, and use it from now on; if it fails, nothing changes."""
        state = ModelState(self._model)
        self._networks.forget()
        anatomy, verified = self._verified(anatomy)
        self._running.check(anatomy.model)
        names = names_of(self._labels, self._model_names, verified.outputs)
        declared = self._declared or anatomy.activation or declared_activation(anatomy.model)
        resolved = partial(resolved_activation, self._asked_activation, declared)
        activation = resolved(verified.outputs) if anatomy.described else "none"  # its outputs are known after a pass
        placement = once_for_each_size(anatomy.placement)
        placement(self.preprocessing.size)  # raises where maps could not be placed
        self.names, self.activation, self.description_error = names, activation, verified.error
        self._activation_of = resolved
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
            before = self.anatomy
            try:
                anatomy, self._undescribed = self._describe()
                self._verify(anatomy)
                if before.described and not self.anatomy.described:
                    self._run_as(before)
            except ModelError as error:
                self._run_as(before)
                raise type(error)(
                    f"{before.name} changed after this Explainer was built, and cannot be explained as it is "
                    f"now: {error}"
                ) from error

    def _run_as(self, anatomy: Anatomy) -> None:
        """One forward, so that an error of the model itself reaches the caller as it is."""
        with torch.no_grad():
            anatomy.forward(fitted(random_picture(self.preprocessing.size), anatomy.model))

    def __call__(
        self,
        images: Any,
        methods: Wanted = "daam,agcam,cdam",
        target: TargetLike = None,
        *,
        strict: bool = True,
        max_forwards: int | None = None,
        progress: Progress | None = None,
        inputs: Inputs | None = None,
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
            inputs: further arguments of the model's forward, by name, such as {"input_ids": ids}.

        Raises:
            ImageError: an image cannot be read.
            MethodError: an unknown method, or one that is not defined for this model.
            TargetError: a target that does not exist, does not fit the batch, or that a class-agnostic method ignores.
            FlatMapError: a map is constant or not finite.
            ModelError: the model changed and can no longer be described.
        """
        (explanation,) = self.each(
            images, methods, [target], strict=strict, max_forwards=max_forwards, progress=progress, inputs=inputs
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
        inputs: Inputs | None = None,
    ) -> list[Explanation]:
        """Explain `images` for several targets: one forward pass, and a backward pass for several where one is needed.

        Args:
            images: as for a call.
            methods: as for a call.
            targets: each as for a call; one explanation is given for each.
            strict, max_forwards, progress, inputs: as for a call.

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
        if inputs or not self.anatomy.described or self._reads_raw_output(aims):
            return self._of_any_network(images, chosen, aims, strict, inputs or {}, progress)
        general = [label for label, method in chosen.methods.items() if self._needs_sites(method)]
        if not general:
            return self._of_description(images, chosen, aims, strict, progress)
        return self._of_both(images, chosen, general, aims, strict, progress)

    def _of_both(
        self,
        images: Any,
        chosen: Chosen,
        general: Sequence[str],
        aims: Sequence[Target],
        strict: bool,
        progress: Progress | None,
    ) -> list[Explanation]:
        """The methods `general` by attention calls, the others by the model's description."""
        rest = chosen.only(chosen.methods.keys() - {*general})
        refused = refusals(self.anatomy, rest.methods, aims)
        for label, error in refused.items():
            if strict and label not in chosen.grouped:
                raise error
        found = self._of_any_network(images, chosen.only(general), aims, strict, {}, progress)
        able = rest.only(rest.methods.keys() - refused.keys())
        if able.methods:
            described = self._of_description(images, able, aims, strict, progress)
            found = [one.joined(other, chosen.methods) for one, other in zip(described, found, strict=True)]
        reasons = {label: str(error) for label, error in refused.items()}
        return [
            dataclasses.replace(
                one, failures={**one.failures, **reasons}, left_out=one.left_out | (chosen.grouped & reasons.keys())
            )
            for one in found
        ]

    def _needs_sites(self, method: Method) -> bool:
        """Whether the method reads attention calls and located tokens, since the model has no rows to follow."""
        facts = method.facts
        return bool(self.anatomy.windows) and facts.of_rows and facts.any_network and not facts.chained

    def _of_description(
        self, images: Any, chosen: Chosen, aims: Sequence[Target], strict: bool, progress: Progress | None
    ) -> list[Explanation]:
        """By the closed forms of the model's description."""
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

    def _reads_raw_output(self, aims: Sequence[Target]) -> bool:
        """Whether a target is a function of the model's raw output, where that is another than its logits."""
        functions = [aim for aim in aims if isinstance(aim, Custom) and not aim.of_features]
        if not functions or self.anatomy.call is None:
            return False
        outputs = torch.zeros(1, max(1, self.anatomy.outputs))
        return any(_asks_for_a_part(aim, outputs) for aim in functions)

    def _of_any_network(
        self,
        images: Any,
        chosen: Chosen,
        aims: Sequence[Target],
        strict: bool,
        inputs: Inputs,
        progress: Progress | None,
    ) -> list[Explanation]:
        """By attention calls and located tokens alone, without a description of the model."""
        batch = as_batch(images, self.preprocessing)
        count, activation = len(batch.tensor), self._activation_of

        def job(start: int, stop: int, some: Sequence[Target], tell: Progress | None) -> Recorded:
            given = of_samples(inputs, start, stop, count)
            part = batch.part(slice(start, stop))
            return record_any(self._networks, part, given, chosen, some, activation, tell, self._undescribed)

        kind = "any network", tuple(chosen.methods), len(aims)
        recorded = Recorded.join(self.passes.of_targets(batch.tensor, kind, aims, job, progress))
        provenance = provenance_of(self.anatomy, self.preprocessing, self.source, recorded.recording.grid)
        return [
            explanation_of(recorded, batch, self.names, provenance, activation, chosen, aim, slot, strict)
            for slot, aim in enumerate(aims)
        ]

    def network(self, images: Tensor | None = None, inputs: Inputs | None = None) -> tuple[NetworkSpec, Any]:
        """What the probe finds of the model at one size of its input, and the raw output there.

        Args:
            images: a float tensor (b ...); otherwise a random one of the preprocessing's size and the first
                convolution's channels.
            inputs: further arguments of the model's forward, by name.

        Raises:
            ModelError: the model does not take them.
        """
        self._follow_changes()
        if images is None:
            convolutions = (module for module in self._model.modules() if isinstance(module, nn.Conv2d))
            channels = next((each.in_channels for each in convolutions), 3)
            images = random_picture(self.preprocessing.size, channels)
        images, given = as_weights(self._model, images, inputs or {})
        network = self._networks.of(images, given)
        with left_as_found(self._model), torch.no_grad():
            return network.spec, network.call(self._model, images)

    def path(self, method: Method) -> str:
        """How the method's map is computed: "fast", by closed forms of the description, or "general"."""
        return "general" if not self.anatomy.described or self._needs_sites(method) else "fast"

    def _need_description(self, what: str) -> None:
        """Raise ModelError where there is none."""
        if not self.anatomy.described:
            raise ModelError(
                f"{what} needs a description of {self.anatomy.name}, which was not understood: {self._undescribed}"
            )

    def features(self, images: Any) -> Tensor:
        """The features of `images`, (b F): what the classifier reads; without a classifier, the model's output.

        Raises:
            ImageError: an image cannot be read.
        """
        self._follow_changes()
        self._need_description("features")
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
        self._need_description("evidence of every class")
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
        self, batch: Batch, logits: Tensor, grid: tuple[int, ...], target: Tensor | None, asked: str
    ) -> Subject:
        rows, cols = grid
        covered = covered_by(self.anatomy, batch, (rows, cols))
        placement = self.anatomy.placement(batch.size)
        provenance = provenance_of(self.anatomy, self.preprocessing, self.source, placement.turned((rows, cols)))
        return Subject(batch, covered, logits, self.anatomy.outputs > 0, target, asked, self.names, provenance)


def _asks_for_a_part(aim: Custom, outputs: Tensor) -> bool:
    """Whether a target's function does not take outputs (b c), as one that reads `.logits`."""
    try:
        aim.function(outputs)
    except (AttributeError, KeyError, TypeError):
        return True
    except Exception:  # whatever else it does is its own
        return False
    return False


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
