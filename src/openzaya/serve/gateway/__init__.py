"""The gateway: test-time compute behind the OpenAI API, over our engine or over other servers."""
