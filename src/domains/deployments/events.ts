import { defineEvent } from '#kernel/events/define.ts';
import type { Severity } from '#kernel/severity.ts';

export const applicationCreated = defineEvent('application.created', {
  subject: 'Application',
  description: 'The application was created.',
});
export const applicationStopped = defineEvent<{ releaseId: string }>('application.stopped', {
  subject: 'Application',
  description: 'Its address serves nothing any more; the release that served is kept.',
});
export const applicationAutoDeploySet = defineEvent<{ autoDeploy: boolean }>('application.autoDeploySet', {
  subject: 'Application',
  description: 'It was said whether pushes to its branch deploy it.',
});
export const releaseActivated = defineEvent<{ releaseId: string; previousReleaseId: string | null }>(
  'application.released',
  {
    subject: 'Application',
    description: 'Its address serves another release.',
  },
);
export const instanceRestarted = defineEvent<{ releaseId: string }>('application.restarted', {
  subject: 'Application',
  description: 'The instance that serves had died and was started again.',
});
export const environmentChanged = defineEvent<{ version: number }>('application.environmentChanged', {
  subject: 'Application',
  description: 'Its environment variables have another version, for deployments from now on.',
});
export const crashLooped = defineEvent<{ releaseId: string; restarts: number; deploymentId: string | null }>(
  'application.crashLooped',
  {
    subject: 'Application',
    description:
      'The release that serves died again and again, soon after its activation. A deployment brings back the one before it; without `deploymentId` there was none, or that one had been brought back like this: somebody has to look.',
  },
);
export const applicationUpdated = defineEvent('application.updated', {
  subject: 'Application',
  description: 'Its settings were changed, for deployments from now on.',
});
export const applicationRemovalAsked = defineEvent('application.removalAsked', {
  subject: 'Application',
  description: 'It is being deleted: nothing of it serves any more, and nothing of it is deployed.',
});
export const applicationDeleted = defineEvent('application.deleted', {
  subject: 'Application',
  description: 'It is gone, with its releases, its deployments and their output.',
});
export const previewPolicySet = defineEvent<{
  enabled: boolean;
  approval: string | null;
  maxPreviews: number | null;
  maxAgeH: number | null;
  forksVariables: boolean | null;
}>('application.previewPolicySet', {
  subject: 'Application',
  description: 'It was decided whether pull requests get previews, and how; what it does not say is null.',
});
const previewEvent = <D extends object = Record<string, never>>(name: string, description: string) =>
  defineEvent<D & { number: number; headSha: string }>(`preview.${name}`, { subject: 'Preview', description });
export const previewEvents = {
  AWAITING_APPROVAL: previewEvent(
    'approvalAsked',
    'The newest commit of a pull request waits for somebody to approve it.',
  ),
  AWAITING_ROOM: previewEvent('waiting', 'The commit may be deployed, and waits for room.'),
  ACTIVE: previewEvent<{ deploymentId: string }>('deployed', 'A deployment of the commit was asked for.'),
  REJECTED: previewEvent('rejected', 'Somebody refused the commit.'),
  EXPIRED: previewEvent(
    'expired',
    'The preview is being removed, for its age or by hand; a new commit brings it back.',
  ),
  CLOSED: previewEvent('closed', 'The pull request has no preview any more.'),
} as const;
export const previewApproved = previewEvent('approved', 'Somebody approved the commit.');
export const quotaChanged = defineEvent<{
  maxApplications: number | null;
  maxConcurrentDeployments: number | null;
  retainedReleases: number | null;
  maxDiskMb: number | null;
}>('workspace.quotaChanged', {
  subject: 'Workspace',
  description: 'An operator said what it may have; null: what the settings of the server say.',
});

export const securityScanned = defineEvent<{
  complete: boolean;
  verdict: string;
  counts: Readonly<Record<Severity, number>>;
  suppressed: number;
}>('deployment.securityScanned', {
  subject: 'Deployment',
  description:
    'Its commit was scanned. `counts` by severity are of findings that are not suppressed; `complete`: every scanner looked at everything that it covers.',
});
export const scanPolicySet = defineEvent<{ blockAtSeverity: Severity | null; requireCompleteScan: boolean }>(
  'application.scanPolicySet',
  { subject: 'Application', description: 'Which findings stop its deployments was decided.' },
);
export const findingSuppressed = defineEvent<{ fingerprint: string; expiresAt: string | null }>(
  'application.findingSuppressed',
  { subject: 'Application', description: 'Somebody decided to live with a finding; why is told by the finding.' },
);
export const findingUnsuppressed = defineEvent<{ fingerprint: string }>('application.findingUnsuppressed', {
  subject: 'Application',
  description: 'A finding counts again.',
});
export const alertRuleSet = defineEvent<{ ruleId: string; condition: string; threshold: number; windowS: number }>(
  'application.alertRuleSet',
  {
    subject: 'Application',
    description: 'A rule tells people of a condition of it.',
  },
);
export const alertRuleDeleted = defineEvent<{ ruleId: string; condition: string }>('application.alertRuleDeleted', {
  subject: 'Application',
  description: 'A rule does not tell of a condition of it any more.',
});

export const deploymentAdvised = defineEvent<{ recommendations: number; model: string }>('deployment.advised', {
  subject: 'Deployment',
  description:
    'It was looked at for advice, after it was over: so many recommendations. `model`: what became of the question to the language model.',
});
export const modelAdviceSet = defineEvent<{ allowed: boolean }>('workspace.modelAdviceSet', {
  subject: 'Workspace',
  description: 'Whether the language model of the server may be told of its deployments was decided.',
});
