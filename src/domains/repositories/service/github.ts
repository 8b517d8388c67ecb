import type { App, Service } from '#kernel/app.ts';
import { createOutboundFetch } from '#kernel/outbound-fetch.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import { createGitHubApi } from '../../../integrations/github/index.ts';
import { SourceAccess } from '../../deployments/index.ts';
import { Repositories } from './connections.ts';
import { RepositorySettings } from './settings.ts';

/** What the operator says about GitHub. */
export interface GitHubSettings {
  readonly apiUrl: string;
  readonly app: { readonly id: string; readonly privateKey: string } | null;
  readonly webhookSecrets: readonly string[];
  readonly allowLoopback: boolean;
  readonly payloadDays: number;
}

/** Answers of the API are long: a page of repositories has some 5 kB each. */
const maxAnswerBytes = 4 * 2 ** 20;

/** Provides what the domain needs, and tells deployments how private repositories are reached. */
export function connectGitHub(
  app: App,
  provided: Map<Service<unknown>, unknown>,
  settings: GitHubSettings,
  urls: Pick<RepositorySettings, 'baseUrl' | 'appUrl'>,
): void {
  // What the operator configured may stand beside this server.
  const policy = createOutboundPolicy({ allowLoopback: settings.allowLoopback, allowPrivate: true });
  const fetch = createOutboundFetch({ policy, maxBytes: maxAnswerBytes });
  provided.set(RepositorySettings, {
    api: createGitHubApi({ apiUrl: settings.apiUrl, app: settings.app, fetch }),
    webhookSecrets: settings.webhookSecrets,
    payloadDays: settings.payloadDays,
    ...urls,
  } satisfies RepositorySettings);
  provided.set(SourceAccess, app.use(Repositories));
}
