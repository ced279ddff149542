from webapp.config.packages import version_of, versions_of


def test_a_package_that_is_not_installed_has_no_version():
    assert version_of("numpy")
    assert version_of("no-such-package") == ""
    assert versions_of(["no-such-package", "numpy"]) == {"numpy": version_of("numpy")}
