"""What the words mean that dimo uses everywhere: one entry each, for its pages and reports."""

GLOSSARY: dict[str, str] = {
    "teacher": (
        "the published model that a run learns from. It is frozen, and draws an image in 8 to "
        "64 passes."
    ),
    "student": (
        "a copy of the teacher's network that learns to draw all tokens in one pass, or in a few"
        " (`student.steps`). It is what a run leaves."
    ),
    "auxiliary": (
        "a second copy, which learns what the student draws at the moment. The difference "
        "between teacher and auxiliary is what tells the student where to go. It is thrown away"
        " afterwards."
    ),
    "token": (
        "one cell of an image: a number that names an entry of the tokenizer's table. 256 px "
        "are 256 tokens or so."
    ),
    "code": (
        "a value that a token can have. A tokenizer has hundreds to hundreds of thousands of them."
    ),
    "mask": (
        "the token that means `nothing here yet`. A teacher fills masks in, some of them in "
        "every pass."
    ),
    "pass": (
        "one run through a network. `steps` of a sampler are passes; steps of a training are "
        "updates."
    ),
    "tokenizer": (
        "the two networks that turn an image into tokens and back. It is the teacher's, and "
        "never trained."
    ),
    "condition": "what an image is asked for by: a class, or a prompt.",
    "guidance": (
        "how much a teacher exaggerates what the condition changes: s in `z_u + s (z_c - z_u)`."
        " A student needs none."
    ),
    "temperature": (
        "how freely tokens are drawn: below 1 the likelier ones more often, above 1 the rarer ones."
    ),
    "r_init": (
        "the share of mask tokens in what a student starts from; the others are random image "
        "tokens, which are its only source of variety. 0.6 in the papers; the setting "
        "`init.mask_ratio`."
    ),
    "x_init": "what a student starts from: masks and random tokens, `r_init` of the first.",
    "x_theta": "the tokens that the student has drawn from `x_init`.",
    "x_tilde": (
        "those tokens with a part of them masked again. There teacher and auxiliary are asked."
    ),
    "divergence": (
        "how far teacher and auxiliary are apart at the masked tokens. Its gradient is what the"
        " student learns from; forward and reverse KL, mixtures of both and others are offered."
    ),
    "KL to the teacher": (
        "how far what the student draws is from the teacher, in nats per token: 0 is the teacher's "
        "own law. It is logged as `teacher_kl` where the masks allow it, and is a lower bound as "
        "far as the auxiliary lags behind. One step of it is mostly noise; look at its mean."
    ),
    "credit of revealed tokens": (
        "the part of the KL's gradient that masked tokens do not show: a token that is kept is "
        "praised or blamed for how well the masked ones then agree with the teacher. The setting "
        "`loss.revealed_credit`."
    ),
    "drift": (
        "where a set of points should move to be more like another one: to those of the other set "
        "around each point, and away from its own neighbors. FPD and CatDrift train by it."
    ),
    "input noise": (
        "random vectors that a student hears beside its tokens, one for each mask or one for the "
        "image: a source of variety that tokens need not carry. The setting `init.noise`."
    ),
    "entropy": (
        "how undecided the student is about a token, in nats: 0 is certain, 6.9 is any of 1,000"
        " codes."
    ),
    "top-1": "the probability of the likeliest token, on average.",
    "gap": (
        "the auxiliary's loss less the student's entropy: how much the auxiliary still has to "
        "learn."
    ),
    "collapse": (
        "a student that draws the same whatever it starts from. Entropy goes to 0, top-1 to 1."
    ),
    "EMA": (
        "the average of a student's weights over its training, newer ones counting more. It "
        "draws better than the last weights, and it is what is saved."
    ),
    "soft embedding": (
        "the average of all tokens' embeddings, weighted by the student's probabilities. "
        "Gradients pass through it, which they do not through a drawn token."
    ),
    "refinement": "a second training of a student, with a GAN or for rewards: `dimo refine`.",
    "GAN": (
        "a second network, the discriminator, learns to tell the student's images from real "
        "ones; the student learns to deceive it."
    ),
    "Di-Bregman": (
        "each image counts in the Di[M]O loss by how likely the GAN's discriminator takes it for "
        "real, which turns the reverse KL towards another divergence. The setting `gan.bregman`."
    ),
    "reward": (
        "a network that says how good an image is, or how well it fits its prompt. A student "
        "can be trained for it."
    ),
    "reward hacking": (
        "a reward that rises while the images get worse. A held-out reward, which is only "
        "watched, and the diversity show it."
    ),
    "TTEO": (
        "test-time embedding optimization: no weight is changed; what the student starts from "
        "is improved for one prompt, by a reward."
    ),
    "FID": (
        "the distance between two sets of images, in the features of a network: 0 is alike. "
        "Needs thousands of images; with few of them it comes out too high."
    ),
    "accuracy": (
        "of the embedded worlds: the share of images that the shipped classifier takes for what"
        " was asked."
    ),
    "run": (
        "a folder with everything about one training: spec, log, samples, checkpoints, student,"
        " report."
    ),
    "preset": "a ready-made spec by name. `dimo presets list` has them all.",
    "spec": (
        "all settings of a run, as a file or put together from preset, file, environment and flags."
    ),
    "checkpoint": (
        "everything that a run needs to go on exactly where it was. `RUN@best`, `RUN@last` and "
        "`RUN@step-N` name them."
    ),
    "micro-batch": (
        "the part of a batch that goes through the networks at once. It decides the memory, not"
        " the result."
    ),
    "round": (
        "a share of a training that learns from what the student itself was when it began: its "
        "images as pairs (ReDi), or its steps, of which two become one (SDTT)."
    ),
    "pair": (
        "what a student starts from, and the image that a network made of it or that stands "
        "beside it. Pairs are drawn once and kept in dimo's cache."
    ),
    "latent": (
        "a random number that a student is told for each image. What it draws apart from each "
        "other given that number can agree over all of them: a mixture (Di4C)."
    ),
    "arena": (
        "all methods on one teacher with the same budget and the same seeds, and their students "
        "side by side (`dimo arena`)."
    ),
    "95 % interval": (
        "around the mean of several seeds: 95 of 100 such intervals hold the mean that very many "
        "seeds would have. Where two overlap, the difference may be luck."
    ),
}
