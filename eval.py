"""Print the AUC table of a trained run: python eval.py --config configs/demo.py."""

if __name__ == "__main__":
    from agcnn_jax.commands import evaluate

    evaluate()
