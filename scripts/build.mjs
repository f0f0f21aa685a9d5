// `npm run build`: packages, addon, TypeScript; only what is not up to date.
import { build, dependencies } from "./steps.mjs";

await dependencies();
await build();
