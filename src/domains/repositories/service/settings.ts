import { required } from '#kernel/app.ts';
import type { GitHubApi } from '../../../integrations/github/index.ts';

/** What this server says about GitHub. */
export interface RepositorySettings {
  readonly api: GitHubApi;
  /** Secrets of the GitHub App's webhook: the present one first, then the one before; none: its address is closed. */
  readonly webhookSecrets: readonly string[];
  /** URL at which GitHub reaches this server, without a trailing slash. */
  readonly baseUrl: () => string;
  /** URL of the application that people use, without a trailing slash. */
  readonly appUrl: () => string;
  /** How long bodies of deliveries, and what was done with them, are kept. */
  readonly payloadDays: number;
}

export const RepositorySettings = required<RepositorySettings>('repository settings');
