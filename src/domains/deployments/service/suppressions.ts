import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow, type Verb } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { findingSuppressed, findingUnsuppressed, scanPolicySet } from '../events.ts';
import { EndedSuppression, NewScanPolicy, NewSuppression } from '../model.ts';
import { can } from '../policy.ts';
import { lockApplication, refuse, type Written } from './applications.ts';

/** What people decide about findings. The writer of suppressions and of an application's policy. */
export const Suppressions = service('suppressions', (app) => {
  const decide = <T extends { readonly applicationId: string }>(
    actor: Actor,
    verb: Verb,
    input: T,
    write: (tx: Transaction, application: { id: string; workspaceId: string }) => Promise<Written['event']>,
  ): Promise<Written> => {
    const id = input.applicationId;
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      // The lock under which a scan looks at what was decided.
      const application = await lockApplication(tx, id);
      authorizeRow(actor, verb, application, 'Application', id);
      return { id, workspaceId: application.workspaceId, event: await write(tx, application) };
    });
  };

  const known = async (tx: Transaction, applicationId: string, fingerprint: string) => {
    const where = { applicationId_fingerprint: { applicationId, fingerprint } };
    const found = await tx.db.knownFinding.findUnique({ where });
    if (!found) throw new NotFound('Finding', fingerprint);
    return { where, found };
  };

  return {
    /**
     * Decides which findings stop the deployments that come. What is not given stays as it is.
     * @throws {ValidationError} {NotFound} {Forbidden}
     */
    async setPolicy(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(NewScanPolicy, raw);
      return decide(actor, can.setScanPolicy, input, async (tx, { id, workspaceId }) => {
        const { blockAtSeverity, requireCompleteScan } = await tx.db.application.update({
          where: { id },
          data: {
            ...(input.blockAtSeverity === undefined ? {} : { blockAtSeverity: input.blockAtSeverity }),
            ...(input.requireCompleteScan == null ? {} : { requireCompleteScan: input.requireCompleteScan }),
          },
        });
        const data = { blockAtSeverity, requireCompleteScan };
        return tx.append({ type: scanPolicySet, workspaceId, subjectId: id, data });
      });
    },

    /**
     * Lives with a finding, in every commit of the application, until `expiresAt`. Again: with another reason.
     * @throws {ValidationError} {NotFound} also when no scan of the application found it {Forbidden}
     */
    async suppress(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(NewSuppression, raw);
      const { fingerprint, reason, expiresAt = null } = input;
      refuse([['expiresAt', expiresAt !== null && expiresAt.getTime() <= Date.now() ? 'must be in the future' : null]]);
      return decide(actor, can.suppressFinding, input, async (tx, { id, workspaceId }) => {
        const { where } = await known(tx, id, fingerprint);
        await tx.db.knownFinding.update({
          where,
          data: { suppressedAt: new Date(), suppressedById: actor.userId, reason, expiresAt },
        });
        const data = { fingerprint, expiresAt: expiresAt?.toISOString() ?? null };
        return tx.append({ type: findingSuppressed, workspaceId, subjectId: id, data });
      });
    },

    /** Makes a finding count again. @throws {ValidationError} {NotFound} {Forbidden} */
    async unsuppress(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(EndedSuppression, raw);
      const { fingerprint } = input;
      return decide(actor, can.unsuppressFinding, input, async (tx, { id, workspaceId }) => {
        const { where, found } = await known(tx, id, fingerprint);
        if (found.suppressedAt === null) return null;
        await tx.db.knownFinding.update({
          where,
          data: { suppressedAt: null, suppressedById: null, reason: null, expiresAt: null },
        });
        return tx.append({ type: findingUnsuppressed, workspaceId, subjectId: id, data: { fingerprint } });
      });
    },
  };
});
