import pytest

from flower_strategy.server.records import ClusterRound, DeviceRound, RoundRecord


def test_the_time_of_all_devices_is_training_transfer_or_waiting_for_the_slowest() -> None:
    record = RoundRecord(round=1)
    assert record.shares() == (0.0, 0.0, 0.0)
    record.devices = {
        1: DeviceRound(cluster="a", observed_seconds=40.0, transfer_seconds=10.0),
        2: DeviceRound(cluster="a", observed_seconds=20.0, transfer_seconds=0.0),
        # It only evaluated.
        3: DeviceRound(cluster="a"),
        # It said less than its transfer must have taken.
        4: DeviceRound(cluster="a", observed_seconds=4.0, transfer_seconds=9.0),
    }
    shares = record.shares()
    assert shares == pytest.approx((50 / 120, 14 / 120, 56 / 120))


def test_a_clusters_training_loss_is_weighed_by_steps() -> None:
    record = RoundRecord(round=1, clusters={"a": ClusterRound(asked=2)})
    record.devices = {
        1: DeviceRound(cluster="a", train_loss=1.0, steps=30, num_examples=1),
        2: DeviceRound(cluster="a", train_loss=3.0, steps=10, num_examples=99),
    }
    metrics = record.conclude_training()
    assert record.clusters["a"].train_loss == metrics["train-loss"] == 1.5
