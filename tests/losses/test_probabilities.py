"""`probabilities` of every loss, against values of 18 digits."""

import numpy as np
import pytest

import examples
from examples import CLASSES
from sides import is_keras, side

# Of the logits below; by mpmath with 30 digits, from exp(x) / sum exp(x) and the like.
LOGITS = [0.5, -0.25, 0.125]
SOFTMAX = [0.46303674196579451, 0.21872306959481309, 0.318240188439392399]
HALVED = [0.397405988528158714, 0.273132875242731573, 0.329461136229109713]
SIGMOID = [0.622459331201854565, 0.437823499114201896, 0.531209373373756257]
SCALED = {
    16: [0.997521263015562272, 6.12898246692777596e-6, 0.0024726080019708],
    30: [0.999986992702348133, 1.69187591559525433e-10, 0.0000130071284642753881],
    64: [0.999999999962248655, 1.42516408268713324e-21, 3.77513454413658134e-11],
}
ORDINAL = [0.377540668798145435, 0.349932008758772688, 0.272527322443081877]  # 1 - s(.5), s(.5) s(.25), s(.5) s(-.25)
SPECIAL = {
    "ArcFaceCrossEntropy": SCALED[64],
    "CosFaceCrossEntropy": SCALED[64],
    "LDAMCrossEntropy": SCALED[30],
    "OrdinalCrossEntropy": ORDINAL,
    "BiTemperedLogistic": [0.437748669568513607, 0.240605225511797785, 0.321646104919688608],
}
OF_CLASS = {name: SPECIAL.get(name, SIGMOID if examples.is_binary(name) else SOFTMAX) for name in CLASSES}

CAPPED = [0.432025559449883782, 0.234306267553888683, 0.333668172996227535]
KEYWORDS = {
    "temperature": ("CategoricalCrossEntropy", {"temperature": 2}, HALVED),
    "temperature, binary": (
        "BinaryCrossEntropy",
        {"temperature": 2},
        [0.562176500885798104, 0.468790626626243743, 0.515619915723015628],
    ),
    "temperature, ordinal": (
        "OrdinalCrossEntropy",
        {"temperature": 2},
        [0.437823499114201896, 0.29863342676099574, 0.263543074124802364],
    ),
    "temperature, distillation": ("Distillation", {"temperature": 2}, HALVED),
    "temperature, cosines": ("CosFaceCrossEntropy", {"temperature": 4}, SCALED[16]),
    "scale": ("ArcFaceCrossEntropy", {"scale": 16}, SCALED[16]),
    "scale of LDAM": ("LDAMCrossEntropy", {"scale": 64, "max_margin": 0.9}, SCALED[64]),
    "adjusted logits": ("LogitAdjustedCrossEntropy", {"tau": 2.0}, SOFTMAX),
    "softcap": ("CategoricalFocalCrossEntropy", {"softcap": 0.5}, CAPPED),
    "softcap and temperature": (
        "CategoricalCrossEntropy",
        {"softcap": 0.5, "temperature": 2},
        [0.392646221333212896, 0.275721444342740248, 0.331632334324046856],
    ),
    "t2 below 1": (
        "BiTemperedLogistic",
        {"t2": 0.5},
        [0.553808164831573762, 0.136296001835092904, 0.309895833333333333],
    ),
    "t2 and temperature": (
        "BiTemperedLogistic",
        {"t2": 2, "temperature": 2},
        [0.354571914345469815, 0.312959430236222914, 0.332468655418307271],
    ),
    "t2 = 1": ("BiTemperedLogistic", {"t2": 1}, SOFTMAX),
    "no effect on probabilities": (
        "CategoricalPolyCrossEntropy",
        {"class_weight": [1, 5, 9], "label_smoothing": 0.5, "z_loss": 1.0, "ignore_index": 1, "reduction": "sum"},
        SOFTMAX,
    ),
    "no effect on binary ones": ("BinaryFocalCrossEntropy", {"pos_weight": 3, "alpha": 0.25}, SIGMOID),
}
CASES = {**{name: (name, {}, want) for name, want in OF_CLASS.items()}, **KEYWORDS}


def logits_of(name, dtype="float32"):
    """A batch of three rows of the same logits, as the loss takes them."""
    row = LOGITS[:2] if name == "OrdinalCrossEntropy" else LOGITS
    row = [*row, 1.0, 2.0, 3.0, -1.0, 0.0, 4.0] if name == "JensenShannonConsistency" else row
    return side.tensor(np.array([row] * 3, dtype))


def moved(name):
    """A keyword that puts the classes on axis 1."""
    return {} if examples.is_binary(name) else {"axis": 1}


@pytest.mark.parametrize(("name", "config", "want"), CASES.values(), ids=CASES)
def test_C8_probabilities(name, config, want):
    loss = examples.build(name, **config)
    got = loss.probabilities(logits_of(name))
    assert side.dtype_name(got) == "float32"
    np.testing.assert_allclose(side.numpy(got), [want] * 3, rtol=4e-6 if want in SCALED.values() else 1e-6)
    if not examples.is_binary(name):
        np.testing.assert_allclose(side.numpy(got).sum(-1), 1.0, rtol=1e-6)
    narrow = loss.probabilities(side.tensor(logits_of(name), "bfloat16"))
    assert side.dtype_name(narrow) == "float32"
    np.testing.assert_allclose(side.numpy(narrow), side.numpy(got), rtol=1e-6)


# The others have the probabilities of cross-entropy. A case takes seconds on TensorFlow and JAX.
OWN = "ArcFace", "BinaryCrossEntropy", "BiTempered", "CategoricalCrossEntropy", "JensenShannonConsistency", "Ordinal"
COMPILED = [
    pytest.param(name, config, want, id=key, marks=[] if name.startswith(OWN) else pytest.mark.slow)
    for key, (name, config, want) in CASES.items()
]


@pytest.mark.parametrize(("name", "config", "want"), COMPILED)
def test_C8_probabilities_compiled_and_along_an_axis(name, config, want):
    """Rows [2, C, 3], the classes on axis 1."""
    loss = examples.build(name, **config, **moved(name))
    row = np.array(logits_of(name))[0]
    logits = side.tensor(np.tile(row[None, :, None], (2, 1, 3)))
    want = np.tile(np.array(want)[None, :, None], (2, 1, 3))
    for mode in side.modes[1:]:  # the first is eager
        got, gradient = side.value_and_gradient(loss.probabilities, logits, mode)
        np.testing.assert_allclose(side.numpy(got), want, rtol=4e-6)
        # Those of the classes add up to 1.
        if not examples.is_binary(name):
            np.testing.assert_allclose(side.numpy(gradient), 0.0, atol=2e-5)


TAILS = {
    "softmax": ("CategoricalCrossEntropy", [60.0, 0.0, -20.0], [1.0, 8.75651076269652034e-27, 1.80485138784541517e-35]),
    "sigmoid": ("BinaryCrossEntropy", [-80.0, 80.0], [1.80485138784541517e-35, 1.0]),
    "ordinal": ("OrdinalCrossEntropy", [-40.0, -30.0], [1.0, 4.24835425529119143e-18, 3.97544973590827478e-31]),
    "no class": ("CategoricalCrossEntropy", [1.0, -np.inf, 1.0], [0.5, 0.0, 0.5]),
    "one class": ("CategoricalCrossEntropy", [3.0], [1.0]),
    "certain": ("BinaryCrossEntropy", [-np.inf, np.inf], [0.0, 1.0]),
}


@pytest.mark.parametrize(("name", "logits", "want"), TAILS.values(), ids=TAILS)
def test_C8_tails(name, logits, want):
    got = examples.build(name).probabilities(side.tensor(np.array([logits], "float32")))
    np.testing.assert_allclose(side.numpy(got), [want], rtol=1e-5)


def test_C8_gradient_in_the_tail():
    """dp_0/dx_0 = p_0 (1 - p_0) = 8.75655326317953629e-27, where p_0 rounds to 1; the others get as much back."""
    logits = side.tensor(np.array([[60.0, 0.0, -20.0]], "float32"))
    loss = examples.build("CategoricalCrossEntropy")
    for mode in side.modes:
        _, gradient = side.value_and_gradient(lambda logits: loss.probabilities(logits)[..., 0], logits, mode)
        want = [[8.75655326317953629e-27, -8.75651076269652034e-27, -1.80485138784541517e-35]]
        np.testing.assert_allclose(side.numpy(gradient), want, rtol=1e-5)


@pytest.mark.parametrize("mode", side.modes)
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "OrdinalCrossEntropy", "BinaryCrossEntropy"])
def test_C8_gradient(name, mode):
    """Of softmax p_0 (1[c = 0] - p_c), of the ordinal P_0 = 1 - s(x_0), of the sigmoid s(x_0) (1 - s(x_0))."""
    loss = examples.build(name)
    _, gradient = side.value_and_gradient(lambda logits: loss.probabilities(logits)[..., 0], logits_of(name), mode)
    p, s = np.array(SOFTMAX), SIGMOID[0]
    want = {
        "CategoricalCrossEntropy": p[0] * (np.eye(3)[0] - p),
        "OrdinalCrossEntropy": [-s * (1 - s), 0],
        "BinaryCrossEntropy": [s * (1 - s), 0, 0],
    }
    np.testing.assert_allclose(side.numpy(gradient), [want[name]] * 3, rtol=1e-5, atol=1e-8)


GIVEN = {
    "categorical": ("CategoricalCrossEntropy", [0.25, 0.5, 1.25], [0.125, 0.25, 0.625]),
    "beyond the clip": ("CategoricalFocalCrossEntropy", [1.0, 0.0, 2.0**-40], [1.0, 0.0, 2.0**-40]),
    "binary": ("BinaryCrossEntropy", [0.25, 1.0, 0.0], [0.25, 1.0, 0.0]),
}


@pytest.mark.parametrize(("name", "given", "want"), GIVEN.values(), ids=GIVEN)
def test_C8_probabilities_of_probabilities(name, given, want):
    got = examples.build(name, from_logits=False).probabilities(side.tensor(np.array([given], "float32")))
    np.testing.assert_allclose(side.numpy(got), [want], rtol=1e-6)


def test_C8_other_logits_raise():
    with pytest.raises(TypeError, match="must be a floating-point tensor"):
        examples.build("CategoricalCrossEntropy").probabilities(side.tensor(np.array([[1, 2]])))
    with pytest.raises(ValueError, match="must hold 3 views of K classes on the class axis, got size 4"):
        examples.build("JensenShannonConsistency").probabilities(side.tensor(np.zeros((2, 4), "float32")))


if is_keras:
    import keras

    @pytest.mark.parametrize(("name", "config", "want"), CASES.values(), ids=CASES)
    def test_C8_probabilities_in_a_functional_model(name, config, want):
        loss = examples.build(name, **config)
        logits = np.array(logits_of(name))
        inputs = keras.Input(logits.shape[1:])
        model = keras.Model(inputs, loss.probabilities(inputs))
        assert model.output_shape == (None, 3)
        np.testing.assert_allclose(model.predict(logits, verbose=0), [want] * 3, rtol=4e-6)

else:

    @pytest.mark.parametrize(("name", "config", "want"), CASES.values(), ids=CASES)
    def test_C8_probabilities_in_float64(name, config, want):
        got = examples.build(name, **config).probabilities(logits_of(name, "float64"))
        np.testing.assert_allclose(side.numpy(got), [want] * 3, rtol=1e-14)
