import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import { newApiKey } from '#kernel/crypto.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { apiKeyCreated, apiKeyRevoked } from '../events.ts';
import { NewKey } from '../model.ts';
import { can } from '../policy.ts';
import { mayGive, type Written } from './shared.ts';

/** Credentials for programs. */
export const ApiKeys = service('api keys', (app) => ({
  /** Makes a key. It is in the answer and nowhere else. @throws {ValidationError} {NotFound} {Forbidden} */
  async createApiKey(actor: Actor, raw: unknown): Promise<Written & { readonly key: string }> {
    const input = parse(NewKey, raw);
    authorize(actor, can.createApiKey, input.workspaceId);
    mayGive(actor, input.workspaceId, input.role);
    const made = newApiKey();
    return app.transact(actor, async (tx) => {
      const { id } = await tx.db.apiKey.create({
        data: {
          id: newId(),
          workspaceId: input.workspaceId,
          createdById: actor.userId as string,
          name: input.name,
          prefix: made.prefix,
          keyHash: made.hash,
          role: input.role,
          expiresAt: input.expiresAt ?? null,
        },
      });
      const event = tx.append({
        type: apiKeyCreated,
        workspaceId: input.workspaceId,
        subjectId: id,
        data: { role: input.role },
      });
      return { id, workspaceId: input.workspaceId, event, key: made.key };
    });
  },

  /** Ends a key and the streams that it opened. Doing it again changes nothing. @throws {NotFound} {Forbidden} */
  async revokeApiKey(actor: Actor, id: string): Promise<{ id: string; workspaceId: string; event: Appended | null }> {
    if (!isId(id)) throw new NotFound('ApiKey', id);
    return app.transact(actor, async (tx) => {
      const key = await tx.db.apiKey.findUnique({ where: { id } });
      authorizeRow(actor, can.revokeApiKey, key, 'ApiKey', id);
      const { count } = await tx.db.apiKey.updateMany({
        where: { id, revokedAt: null },
        data: { revokedAt: new Date() },
      });
      const event =
        count === 0 ? null : tx.append({ type: apiKeyRevoked, workspaceId: key.workspaceId, subjectId: id });
      return { id, workspaceId: key.workspaceId, event };
    });
  },
}));
