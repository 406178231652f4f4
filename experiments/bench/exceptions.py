"""The losses that may take more than three times the plain cross-entropy's time, and why.

Forward and backward at 4096 examples of 1000 classes on a CPU, where the plain cross-entropy reads
the logits three times, takes two exponentials of each and writes the gradient once.
"""

EXCEPTIONS: dict[str, str] = {
    "active_negative": (
        "8 passes: two normalized losses, each with its sums of losses and of slopes"
    ),
    "active_passive": (
        "a normalized loss and a passive one: 6 passes, 2 exps per class for the gradients"
    ),
    "adaptive_softmax": "the matrix products of the head and of every tail, forward and backward",
    "adaptive_softmax_log_probabilities": (
        "writes all N K log-probabilities, and their matrix products"
    ),
    "asymmetric_loss": (
        "2 surprises, 3 sigmoids and 4 logarithms per value, as many for the slope; 2 arrays"
    ),
    "augmix": "three arrays of logits with gradients, a logarithm of their mixture",
    "backward_correction": "inverts the K x K matrix where it is not a constant: K^3 products",
    "batch_hard_triplet": (
        "6 N K 128 operations in matrix products, and two searches for places of extremes"
    ),
    "batch_semi_hard_triplet": (
        "sorts each of sqrt(N K) rows of distances, N K log(N K) / 2 comparisons"
    ),
    "bayesian_personalised_ranking": (
        "a logarithm per element and a loss written for each, where the plain loss has one per "
        "example"
    ),
    "bi_tempered_logistic": (
        "4 Newton steps of a log(1 + x), an exp and a quotient per class, and the gradient"
    ),
    "binary_cross_entropy_from_probabilities": (
        "2 logarithms and 2 quotients per element, a loss written for each"
    ),
    "binary_dice_loss": "2 sums over the set, a sigmoid per element, read again for the gradient",
    "circle_loss": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "class_balanced_focal_loss": (
        "a focal term per class: an exp, a log(1 + u) and 2 sigmoids, twice"
    ),
    "clip_loss": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "consistency": "two arrays of logits with gradients, a normalizer for each",
    "coral_probabilities": (
        "a sigmoid for each of K thresholds, and their differences written twice"
    ),
    "corn": "two logarithms for each of K thresholds, and their masks",
    "corn_probabilities": "a cumulative product of N K probabilities",
    "cosine_similarities": "matrix products of 6 N K 128 operations, forward and backward",
    "ctc_loss": (
        "two sweeps over 256 frames that follow one another, of 103 states each, and a scatter"
    ),
    "decoupled_contrastive": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "decoupled_distillation": "two arrays of logits, with and without the label's class",
    "dice_loss": "a softmax, 3 sums over the sets of each class, and dense targets",
    "direct_preference": (
        "a logarithm per element and a loss written for each, where the plain loss has one per "
        "example"
    ),
    "distillation": "two arrays of logits at two temperatures: four exponentials per class more",
    "distribution_balanced": (
        "2 surprises and 3 sigmoids per value, as many for the slope, and a weight each"
    ),
    "early_learning_regularization": (
        "reads and writes the targets' rows, two normalizers and a mixture of classes"
    ),
    "entmax": "31 Newton steps of a log(1 + x), an exp and a quotient per class",
    "entmax15": "8 Newton steps, each with 2 sums over the classes",
    "entmax15_loss": "the Newton steps of entmax15, 3 sums for the loss with a root each",
    "entmax_loss": "the Newton steps of entmax, 3 sums for the loss with a log and an exp each",
    "forward_correction": (
        "reads a row of the matrix per example; two weighted normalizers, 3 exps per class"
    ),
    "gan_discriminator": (
        "two arrays, with a logarithm and a loss written for each of 2 N K elements"
    ),
    "gan_hinge_discriminator": (
        "two arrays, with a loss and a gradient written for each of 2 N K elements"
    ),
    "gan_minimax_generator": (
        "a logarithm per element and a loss written for each, where the plain loss has one per "
        "example"
    ),
    "generalized_jensen_shannon": (
        "two views: of each the normalizer, 4 exps and 2 logs for the sums, the same for gradients"
    ),
    "generalized_kl_divergence": "an exponential and a logarithm per class, of two arrays",
    "gradient_harmonising": "a histogram of all gradients: a scatter and a gather of N K numbers",
    "hl_gauss": "a distribution over the classes for every value: K + 1 error functions for each",
    "info_nce": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "jensen_shannon_consistency": (
        "three arrays of logits with gradients, a logarithm of their mixture"
    ),
    "jensen_shannon_distillation": (
        "two arrays of logits, their mixture and its logarithm per class"
    ),
    "jensen_shannon_divergence": (
        "3 logarithms per class for two distributions and as many for the slopes, with the "
        "selects of 0 log 0 written out between them"
    ),
    "joint_optimization": "two normalizers, an entropy and a mean prediction over the batch",
    "label_aware_smoothing": (
        "the sum of all classes' losses with the label's: one pass more each way"
    ),
    "lifted_structure": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "linear_chain_crf": (
        "2 N K 50 products and as many exponentials, twice, in 64 steps that follow one another"
    ),
    "linear_chain_marginals": "the forward-backward sweeps of the chain, differentiated once more",
    "list_mle": "sorts N K scores: N K log K comparisons, and cumulative sums over the lists",
    "logit_clip": "the norm of each row first: reads the logits once more, forward and backward",
    "lovasz_hinge": "sorts N K errors: N K log K comparisons, and gathers them back",
    "lovasz_softmax": "sorts N K errors: 8 N K comparisons, and gathers them back",
    "maml_adapt": (
        "5 steps' gradients and their Hessian products: 15 N K 128 operations in matrix products"
    ),
    "matching_network": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "matching_network_logits": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "multi_similarity": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "multiclass_generalized_dice_loss": (
        "a softmax, 3 sums over the sets of each class, and dense targets"
    ),
    "multiclass_sparsemax_loss": "the Newton steps of sparsemax, 3 sums for the loss",
    "mutual_information": "a logarithm per entry, and the marginals' back",
    "n_pairs": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "neighbourhood_component_analysis": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "noise_contrastive_estimation": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "normalized_cross_entropy": (
        "5 passes over the logits: maximum, normalizer, sum of all losses, count, gradient"
    ),
    "normalized_focal": (
        "6 passes; an exp, an expm1 and a log per loss, and 2 expm1 more per slope, in 3 of them"
    ),
    "normalized_generalized_cross_entropy": (
        "6 passes: maximum, normalizer, losses (an exp), slopes (an exp), 2 exps for the gradient"
    ),
    "ntxent": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "pairwise_logistic": "a logarithm and an exponential for each of N K pairs",
    "peer_loss": "a target for every class: 2 passes more than an integer label",
    "poly_loss_cross_entropy": "dense targets: reads twice as much, and two losses' sums",
    "prototypical": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "prototypical_logits": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "proxy_anchor": "two exponentials per class and sums over the examples, across the rows",
    "ranking_softmax_loss": "dense targets: reads twice as much",
    "relative_entropy": "two logarithms per class, of two distributions with gradients",
    "renyi_divergence": (
        "two powers and two logarithms per class, of two distributions with gradients"
    ),
    "ridge_regression": "solves a K x K system: K^3 / 3 products, and 6 N K 128 in matrix products",
    "ridge_regression_logits": (
        "solves a K x K system: K^3 / 3 products, and 6 N K 128 in matrix products"
    ),
    "sampled_softmax": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "siglip_loss": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "sigmoid_equalization": (
        "an exp and a log(1 + u) per class, where the plain loss has one log per example"
    ),
    "sigmoid_focal_loss": (
        "an exp, a log(1 + u), 2 sigmoids and a power per element, written for each"
    ),
    "soft_ordinal": (
        "a distribution over the classes for every label: an exponential more, and its sum"
    ),
    "soft_triple": (
        "an exponential per centre more, and a sum over centres within the sum over classes"
    ),
    "softmax_cross_entropy": "dense targets: reads twice as much, in both directions",
    "sparsemax": "6 Newton steps, each with 2 sums over the classes",
    "supervised_contrastive": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "trades": "two arrays of logits with gradients: reads and writes twice as much",
    "triplet_margin_loss": "three arrays with gradients: reads and writes three times as much",
    "tsallis_entropy": "a power for each class, and another for its slope",
    "tuplet_margin": (
        "matrix products of 6 N K 128 operations, forward and backward, besides the "
        "similarities' exps"
    ),
    "tversky": "2 sums over the set, a sigmoid per element, read again for the gradient",
    "two_hot": "a distribution over the classes for every value, and a dense target's reads",
    "unlikelihood": (
        "marks the earlier labels for each of N tokens: N 256 / 2 of them, as an array of N K"
    ),
    "zlpr_multilabel": "two normalizers, of the labels and of the others",
}
