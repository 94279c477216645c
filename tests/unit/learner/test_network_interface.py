from learner.rank_process import network_interface_for


def test_an_address_belongs_to_the_interface_that_has_it():
    assert network_interface_for("127.0.0.1") == "lo"


def test_an_address_of_another_machine_belongs_to_none():
    assert network_interface_for("198.51.100.1") is None  # reserved for documentation (RFC 5737)
