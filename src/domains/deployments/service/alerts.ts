import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound, ValidationError } from '#kernel/errors.ts';
import { Inbox } from '#kernel/inbox/inbox.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { alertRuleDeleted, alertRuleSet } from '../events.ts';
import { conditions, NewAlertRule, type AlertConditionName } from '../model.ts';
import { can } from '../policy.ts';

export interface RuleWritten {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended;
}

/** Rules that a new application has. */
export const usualRules = [
  { condition: 'UNHEALTHY', threshold: 100, windowS: 60 },
  { condition: 'RESTARTS', threshold: 3, windowS: 300 },
  { condition: 'MEMORY', threshold: 90, windowS: 300 },
] as const satisfies readonly { condition: AlertConditionName; threshold: number; windowS: number }[];

/** The writer of alert rules. */
export const Alerts = service('alerts', (app) => ({
  /** Makes or changes the application's rule for a condition. @throws {ValidationError} {NotFound} {Forbidden} */
  async set(actor: Actor, raw: unknown): Promise<RuleWritten> {
    const { applicationId, condition, threshold, windowS } = parse(NewAlertRule, raw);
    const { most } = conditions[condition];
    if (threshold > most) throw new ValidationError([{ path: 'threshold', message: `must be at most ${most}` }]);
    return app.transact(actor, async (tx) => {
      const application = await tx.db.application.findUnique({ where: { id: applicationId } });
      authorizeRow(actor, can.setAlertRule, application, 'Application', applicationId);
      const { workspaceId } = application;
      const { id } = await tx.db.alertRule.upsert({
        where: { applicationId_condition: { applicationId, condition } },
        create: { id: newId(), workspaceId, applicationId, condition, threshold, windowS },
        update: { threshold, windowS },
      });
      const event = tx.append({
        type: alertRuleSet,
        workspaceId,
        subjectId: applicationId,
        data: { ruleId: id, condition, threshold, windowS },
      });
      return { id, workspaceId, event };
    });
  },

  /** Removes a rule; what it had opened in the inbox is closed. @throws {NotFound} {Forbidden} */
  async delete(actor: Actor, id: string): Promise<RuleWritten> {
    if (!isId(id)) throw new NotFound('AlertRule', id);
    return app.transact(actor, async (tx) => {
      const rule = await tx.db.alertRule.findUnique({ where: { id } });
      authorizeRow(actor, can.deleteAlertRule, rule, 'AlertRule', id);
      const { workspaceId, applicationId, condition } = rule;
      await tx.db.alertRule.deleteMany({ where: { id } });
      await app.use(Inbox).resolve(tx, workspaceId, alertKey(id));
      const event = tx.append({
        type: alertRuleDeleted,
        workspaceId,
        subjectId: applicationId,
        data: { ruleId: id, condition },
      });
      return { id, workspaceId, event };
    });
  },
}));

/** Of the inbox items that a rule opens. */
export const alertKey = (ruleId: string): string => `alert:${ruleId}`;

/** Gives a new application its rules. */
export async function addUsualRules(tx: Transaction, workspaceId: string, applicationId: string): Promise<void> {
  await tx.db.alertRule.createMany({ data: usualRules.map((rule) => ({ id: newId(), workspaceId, applicationId, ...rule })) }); // prettier-ignore
}
