// The API's description, drawn by Swagger UI. It only reads: "try it out" would take IDs.
"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  supportedSubmitMethods: [],
  validatorUrl: null,
});
