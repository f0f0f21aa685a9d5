// `tritonode/opentelemetry`: spans and metrics of the requests, through the package @opentelemetry/api of the application.
export { type InstrumentOptions, instrument } from "./instrument";
