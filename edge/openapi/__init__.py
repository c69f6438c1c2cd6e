"""The API's description of itself: an OpenAPI document made from the table of endpoints, and the page that shows it."""
