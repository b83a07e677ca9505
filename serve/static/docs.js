// Swagger UI over this server's own description; nothing is loaded from elsewhere.

SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("docs"),
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  validatorUrl: null,
});
