import { anyOf, definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('repositories', {
  verbs: {
    connectRepository: 'ADMIN',
    rotateWebhookSecret: 'ADMIN',
    disconnectRepository: 'ADMIN',
    redeliverWebhook: 'MEMBER',
  },
  rows: {
    ConnectedRepository: inWorkspace('VIEWER'),
    // Operators own the server's own workspace: they see every delivery.
    WebhookDelivery: anyOf(inWorkspace('VIEWER'), inWorkspace('OWNER', 'instanceId')),
    // Reached through their deployment.
    CommitStatus: withParent,
    PushDeployment: withParent,
  },
}).verbs;
