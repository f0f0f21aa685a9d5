// `npm run build`: packages, addon, TypeScript; only what is not up to date.
import { build, dependencies, main } from "./steps.mjs";

main(async () => {
  await dependencies();
  await build();
});
