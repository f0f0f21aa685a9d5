import { InvalidArgumentError } from "../../errors";
import { parse } from "../arguments";
import { hasChatTemplate } from "../ask";
import { askSettings, namesModel } from "../ask-settings";
import { Conversation } from "../chat/conversation";
import { Session } from "../chat/session";
import type { Run } from "../context";
import { withModel } from "../model";
import { chat as spec } from "../table/models";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const [positional] = positionals;
  if (positional !== undefined && namesModel(values)) {
    throw new InvalidArgumentError(
      `unexpected argument ${JSON.stringify(positional)}: an option names the model already`,
    );
  }
  const settings = askSettings(values, positional);
  const conversation = values.load === undefined ? new Conversation() : Conversation.load(values.load);
  conversation.system = settings.system ?? conversation.system;
  return withModel(context, settings.load, async (model) => {
    const template = !settings.raw && (await hasChatTemplate(model));
    const { sampling, quiet, raw } = settings;
    const session = new Session(context, model, conversation, {
      sampling,
      quiet,
      raw,
      template,
      json: values.json,
      noHistory: values["no-history"],
    });
    const [adapter] = settings.load.adapters;
    const { lora } = conversation;
    conversation.lora = undefined;
    if (adapter !== undefined) await session.switchTo(adapter.name);
    else if (lora !== undefined) await session.switchBack(lora);
    await session.run();
    return 0;
  });
};
