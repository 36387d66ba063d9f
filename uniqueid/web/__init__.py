"""HTTP: routes, parameters, problems and pages."""
