import { database } from './database.ts';
import { deployments } from './deployments.ts';
import { documents } from './documents.ts';
import { ec2 } from './ec2.ts';
import { encryption } from './encryption.ts';
import { files } from './files.ts';
import { general } from './general.ts';
import { githubAndLlm } from './github-and-llm.ts';
import { graphql } from './graphql.ts';
import { http } from './http.ts';
import { mail } from './mail.ts';
import { outbound } from './outbound.ts';
import { sessions } from './sessions.ts';
import { signIn } from './sign-in.ts';
import { source } from './source.ts';
import { telemetry } from './telemetry.ts';
import { worker } from './worker.ts';
import type { Setting } from './kit.ts';

/** Every environment variable that the program reads, by name; the order is that of docs/configuration.md. */
export const settings = {
  ...general,
  ...http,
  ...sessions,
  ...signIn,
  ...encryption,
  ...database,
  ...mail,
  ...files,
  ...graphql,
  ...worker,
  ...githubAndLlm,
  ...deployments,
  ...ec2,
  ...source,
  ...documents,
  ...outbound,
  ...telemetry,
} as const;

type Settings = typeof settings;
export type SettingName = keyof Settings;
export type ParsedValues = Partial<Record<SettingName, unknown>>;
export type Values = { readonly [K in SettingName]: Settings[K] extends Setting<infer T> ? T : never };
