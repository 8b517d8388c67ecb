import { randomBytes } from 'node:crypto';
import type { ConnectedRepository } from '#prisma';
import type { App } from '#kernel/app.ts';
import { isSigned } from '../../../integrations/github/index.ts';
import { Repositories } from './connections.ts';
import { RepositorySettings } from './settings.ts';

export { isSignature } from '../../../integrations/github/index.ts';

/** Nobody knows it: what is signed by a connection that is not there takes as long to refuse as any other. */
const nobodys = randomBytes(32).toString('hex');

/**
 * Who vouches for a message: the connection whose address it came to, or, with none, the server's own secret. Null:
 * nobody does. Which secrets count is said by the address, never by what the message says.
 */
export async function vouched(
  app: App,
  message: { readonly connectionId: string | null; readonly body: string; readonly signature: string },
): Promise<{ readonly trusted: ConnectedRepository | null } | null> {
  const { connectionId, body, signature } = message;
  if (body === '') return null;
  if (connectionId === null) {
    const { webhookSecrets } = app.use(RepositorySettings);
    return (await isSigned(body, signature, webhookSecrets)) ? { trusted: null } : null;
  }
  const found = await app.use(Repositories).secretsOf(connectionId);
  const good = await isSigned(body, signature, found?.secrets ?? [nobodys]);
  return good && found ? { trusted: found.row } : null;
}
