/**
 * `tritonode/opentelemetry`: spans and metrics of the requests, through the package @opentelemetry/api of the application.
 *
 * @module opentelemetry
 */

export { type InstrumentOptions, instrument } from "./instrument";
