"""Train AG-CNN stage by stage: python train.py --config configs/demo.py."""

if __name__ == "__main__":
    from agcnn_jax.commands import train

    train()
