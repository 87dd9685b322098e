package detect

import "strings"

// Tag is what is known about an action by its name.
type Tag uint16

// The tags.
const (
	TagEvasion     Tag = 1 << iota // turns off logging, a guardrail or a detector
	TagCredential                  // makes a credential
	TagTrust                       // lets somebody else in
	TagCreate                      // makes a principal
	TagGrant                       // gives rights
	TagPass                        // hands a role to a service
	TagAssume                      // takes a role
	TagSecret                      // reads a secret
	TagSecretBatch                 // reads several secrets at once
	TagSensitive                   // runs code, opens a network, changes what runs
	TagShare                       // makes a data store readable for others
	TagConsole                     // signs in to a console
	TagAdmin                       // gives administration, by its name alone
)

// TagsOf looks an action up. Names are compared without case and without the date
// suffix that some services append, such as UpdateFunctionCode20150331v2.
func TagsOf(action string) Tag {
	var buf [112]byte
	if len(action) > len(buf) {
		return 0
	}
	b := buf[:0]
	for i := 0; i < len(action); i++ {
		c := action[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	if t, ok := actionTags[string(b)]; ok {
		return t
	}
	if n := undated(b); n < len(b) {
		return actionTags[string(b[:n])]
	}
	return 0
}

// undated is the length of b without a trailing date of eight digits and version.
func undated(b []byte) int {
	n := len(b)
	v := n
	for v > 0 && b[v-1] >= '0' && b[v-1] <= '9' {
		v--
	}
	if v > 0 && v < n && b[v-1] == 'v' {
		n = v - 1
	}
	d := n
	for d > 0 && b[d-1] >= '0' && b[d-1] <= '9' {
		d--
	}
	if n-d == 8 {
		return d
	}
	return len(b)
}

// tagTable lists action names by tag, as the audit logs of AWS, GCP, Azure,
// Kubernetes, GitHub and Okta spell them. An action may stand under several tags.
// It is a read-only table.
var tagTable = []struct {
	tag   Tag
	names string
}{
	{TagEvasion, `
		cloudtrail:StopLogging cloudtrail:DeleteTrail cloudtrail:UpdateTrail cloudtrail:PutEventSelectors
		cloudtrail:DeleteEventDataStore cloudtrail:StopEventDataStoreIngestion cloudtrail:PutInsightSelectors
		ec2:DeleteFlowLogs logs:DeleteLogGroup logs:DeleteLogStream logs:DeleteSubscriptionFilter
		logs:PutRetentionPolicy logs:DeleteMetricFilter logs:DeleteDestination
		route53resolver:DeleteResolverQueryLogConfig route53resolver:DisassociateResolverQueryLogConfig
		guardduty:DeleteDetector guardduty:UpdateDetector guardduty:DisassociateFromMasterAccount
		guardduty:DisassociateFromAdministratorAccount guardduty:DisassociateMembers guardduty:DeleteMembers
		guardduty:StopMonitoringMembers guardduty:CreateFilter guardduty:CreateIPSet guardduty:DeletePublishingDestination
		config:StopConfigurationRecorder config:DeleteConfigurationRecorder config:DeleteDeliveryChannel
		config:DeleteConfigRule config:DeleteOrganizationConfigRule
		securityhub:DisableSecurityHub securityhub:DeleteMembers securityhub:BatchDisableStandards
		macie2:DisableMacie inspector2:Disable access-analyzer:DeleteAnalyzer detective:DeleteGraph
		cloudwatch:DeleteAlarms cloudwatch:DisableAlarmActions events:DisableRule events:DeleteRule events:RemoveTargets
		organizations:LeaveOrganization organizations:DetachPolicy organizations:DeletePolicy organizations:DisablePolicyType
		s3:DeleteBucketLogging s3:PutBucketLogging s3:DeleteBucketPolicy s3:PutBucketLifecycle s3:PutBucketLifecycleConfiguration
		rds:StopActivityStream wafv2:DeleteWebACL wafv2:DisassociateWebACL waf:DeleteWebACL
		iam:DeleteAccountPasswordPolicy iam:UpdateAccountPasswordPolicy ses:UpdateConfigurationSetEventDestination
		bedrock:DeleteModelInvocationLoggingConfiguration bedrock:DeleteGuardrail bedrock:UpdateGuardrail
		lambda:DeleteFunctionCodeSigningConfig kms:ScheduleKeyDeletion kms:DisableKey eks:UpdateClusterConfig
		google.logging.v2.ConfigServiceV2.DeleteSink google.logging.v2.ConfigServiceV2.UpdateSink
		google.logging.v2.ConfigServiceV2.DeleteBucket google.logging.v2.ConfigServiceV2.CreateExclusion
		google.logging.v2.LoggingServiceV2.DeleteLog
		microsoft.insights/diagnosticSettings/delete microsoft.insights/activityLogAlerts/delete
		microsoft.security/pricings/write microsoft.security/alertsSuppressionRules/write microsoft.network/networkWatchers/flowLogs/delete
		microsoft.operationalInsights/workspaces/delete microsoft.securityInsights/alertRules/delete
		microsoft.eventHub/namespaces/eventHubs/delete microsoft.network/azureFirewalls/delete
		microsoft.network/firewallPolicies/delete microsoft.network/networkWatchers/delete
		microsoft.insights/logprofiles/delete
		protected_branch.destroy protected_branch.policy_override repository_secret_scanning.disable
		repository_vulnerability_alerts.disable secret_scanning_push_protection.disable audit_log_streaming.destroy
		org.disable_two_factor_requirement system.log_stream.lifecycle.delete system.log_stream.lifecycle.deactivate
		policy.lifecycle.deactivate policy.lifecycle.delete policy.rule.deactivate zone.deactivate`},
	{TagCredential, `
		iam:CreateAccessKey iam:CreateLoginProfile iam:UpdateLoginProfile iam:CreateServiceSpecificCredential
		iam:ResetServiceSpecificCredential iam:UploadSigningCertificate iam:UploadSSHPublicKey iam:UpdateAccessKey
		iam:ChangePassword sts:GetFederationToken codecommit:CreateCredential
		lightsail:DownloadDefaultKeyPair redshift:GetClusterCredentials ec2:CreateKeyPair ec2:ImportKeyPair
		google.iam.admin.v1.CreateServiceAccountKey google.iam.admin.v1.UploadServiceAccountKey
		google.iam.credentials.v1.IAMCredentials.SignJwt
		microsoft.graph/applications/addPassword microsoft.graph/applications/addKey
		microsoft.storage/storageAccounts/regenerateKey/action microsoft.containerRegistry/registries/tokens/write
		serviceaccounts/token:create certificatesigningrequests:create
		personal_access_token.access_granted deploy_key.create public_key.create
		system.api_token.create application.integration.api_token.create`},
	{TagTrust, `
		iam:UpdateAssumeRolePolicy iam:CreateSAMLProvider iam:UpdateSAMLProvider iam:CreateOpenIDConnectProvider
		iam:AddClientIDToOpenIDConnectProvider iam:UpdateOpenIDConnectProviderThumbprint
		rolesanywhere:CreateTrustAnchor rolesanywhere:UpdateTrustAnchor rolesanywhere:CreateProfile
		rolesanywhere:EnableTrustAnchor lambda:AddPermission lambda:AddLayerVersionPermission
		lambda:CreateFunctionUrlConfig s3:PutBucketPolicy s3:PutBucketAcl sns:AddPermission sqs:AddPermission
		kms:PutKeyPolicy kms:CreateGrant secretsmanager:PutResourcePolicy ecr:SetRepositoryPolicy
		sso-admin:CreatePermissionSet organizations:InviteAccountToOrganization ram:CreateResourceShare
		google.iam.v1.WorkloadIdentityPools.CreateWorkloadIdentityPoolProvider
		google.iam.v1beta.WorkloadIdentityPools.CreateWorkloadIdentityPoolProvider
		microsoft.graph/applications/federatedIdentityCredentials/create microsoft.graph/oauth2PermissionGrants/create
		validatingwebhookconfigurations:create mutatingwebhookconfigurations:create
		integration_installation.create oauth_application.create hook.create org.add_member repo.add_member
		app_installed app_approved app_scopes_expanded
		app.oauth2.as.consent.grant system.idp.lifecycle.create system.agent.ad.create`},
	{TagCreate, `
		iam:CreateUser iam:CreateRole iam:CreateInstanceProfile iam:CreateServiceLinkedRole
		google.iam.admin.v1.CreateServiceAccount google.iam.admin.v1.CreateRole
		microsoft.managedIdentity/userAssignedIdentities/write microsoft.graph/servicePrincipals/create
		serviceaccounts:create roles:create clusterroles:create user.lifecycle.create`},
	{TagGrant, `
		iam:AttachUserPolicy iam:AttachRolePolicy iam:AttachGroupPolicy iam:PutUserPolicy iam:PutRolePolicy
		iam:PutGroupPolicy iam:AddUserToGroup iam:AddRoleToInstanceProfile iam:CreatePolicyVersion
		iam:SetDefaultPolicyVersion iam:DeleteUserPermissionsBoundary iam:DeleteRolePermissionsBoundary
		iam:PutUserPermissionsBoundary iam:PutRolePermissionsBoundary
		google.iam.v1.IAMPolicy.SetIamPolicy SetIamPolicy google.iam.admin.v1.SetIAMPolicy google.iam.admin.v1.UpdateRole
		microsoft.authorization/roleAssignments/write microsoft.authorization/roleDefinitions/write
		microsoft.authorization/elevateAccess/action
		rolebindings:create rolebindings:update rolebindings:patch clusterrolebindings:create
		clusterrolebindings:update clusterrolebindings:patch clusterroles:update clusterroles:patch
		group.user_membership.add user.account.privilege.grant group.privilege.grant org.update_member`},
	{TagPass, `iam:PassRole rds:AddRoleToDBInstance rds:AddRoleToDBCluster ec2:AssociateIamInstanceProfile
		ec2:ReplaceIamInstanceProfileAssociation`},
	{TagAssume, `sts:AssumeRole sts:AssumeRoleWithWebIdentity sts:AssumeRoleWithSAML
		google.iam.credentials.v1.IAMCredentials.GenerateAccessToken`},
	{TagSecret, `
		secretsmanager:GetSecretValue ssm:GetParameter ec2:GetPasswordData redshift:GetClusterCredentials
		google.cloud.secretmanager.v1.SecretManagerService.AccessSecretVersion
		microsoft.keyVault/vaults/secrets/getSecret/action secretGet keyGet secrets:get vault:read`},
	{TagSecretBatch, `secretsmanager:BatchGetSecretValue ssm:GetParameters ssm:GetParametersByPath secrets:list`},
	{TagSensitive, `
		ssm:SendCommand ssm:StartSession ssm:ResumeSession ssm:StartAutomationExecution ssm:CreateAssociation
		ec2-instance-connect:SendSSHPublicKey ec2-instance-connect:SendSerialConsoleSSHPublicKey
		ec2-instance-connect:OpenTunnel ec2:EnableSerialConsoleAccess ec2:RunInstances ec2:ModifyInstanceAttribute
		ec2:AuthorizeSecurityGroupIngress ec2:AuthorizeSecurityGroupEgress ec2:CreateRoute ec2:ReplaceRoute
		ec2:CreateVpcPeeringConnection ec2:CreateInternetGateway ec2:ModifyVpcEndpoint ec2:CreateTrafficMirrorSession
		lambda:UpdateFunctionCode lambda:UpdateFunctionConfiguration lambda:CreateFunction lambda:PublishLayerVersion
		lambda:DeleteFunction lambda:CreateEventSourceMapping ecs:ExecuteCommand ecs:RegisterTaskDefinition ecs:RunTask ecr:PutImage
		codebuild:StartBuild codebuild:UpdateProject glue:CreateDevEndpoint glue:UpdateJob
		sagemaker:CreatePresignedNotebookInstanceUrl sagemaker:CreateNotebookInstance
		cloudformation:CreateStack cloudformation:UpdateStack cloudformation:CreateStackSet
		bedrock:PutFoundationModelEntitlement bedrock:CreateFoundationModelAgreement bedrock:PutUseCaseForModelAccess
		rds:ModifyDBInstance rds:RestoreDBInstanceFromDBSnapshot s3:PutBucketWebsite s3:DeleteBucket
		s3:PutBucketVersioning backup:DeleteRecoveryPoint ec2:DeleteSnapshot rds:DeleteDBSnapshot rds:DeleteDBCluster
		dynamodb:DeleteTable route53:ChangeResourceRecordSets route53domains:TransferDomain
		v1.compute.instances.setMetadata v1.compute.projects.setCommonInstanceMetadata beta.compute.instances.setMetadata
		v1.compute.firewalls.insert v1.compute.firewalls.patch
		google.cloud.functions.v1.CloudFunctionsService.UpdateFunction google.cloud.run.v1.Services.ReplaceService
		microsoft.compute/virtualMachines/runCommand/action microsoft.compute/virtualMachines/extensions/write
		microsoft.network/networkSecurityGroups/securityRules/write microsoft.automation/automationAccounts/runbooks/write
		microsoft.containerService/managedClusters/runCommand/action
		microsoft.automation/automationAccounts/jobs/write microsoft.automation/automationAccounts/schedules/write
		microsoft.automation/automationAccounts/webhooks/write microsoft.web/sites/hostruntime/host/action
		microsoft.compute/galleries/applications/versions/write microsoft.serialConsole/serialPorts/connect/action
		microsoft.compute/virtualMachineScaleSets/virtualMachines/runCommand/action
		microsoft.compute/virtualMachineScaleSets/extensions/write
		pods/exec:create pods/attach:create pods/portforward:create pods/ephemeralcontainers:patch nodes/proxy:create
		daemonsets:create cronjobs:create
		repo.access workflows.created_workflow_run repo.actions_enabled org.register_self_hosted_runner
		repo.register_self_hosted_runner`},
	{TagShare, `
		ec2:ModifySnapshotAttribute ec2:ModifyImageAttribute rds:ModifyDBSnapshotAttribute
		rds:ModifyDBClusterSnapshotAttribute ssm:ModifyDocumentPermission redshift:AuthorizeSnapshotAccess
		redshift:AuthorizeDataShare v1.compute.images.setIamPolicy v1.compute.snapshots.setIamPolicy v1.compute.disks.setIamPolicy
		microsoft.storage/storageAccounts/listKeys/action microsoft.storage/storageAccounts/listAccountSas/action
		microsoft.keyVault/vaults/secrets/recover/action microsoft.keyVault/vaults/secrets/restore/action
		microsoft.keyVault/vaults/secrets/backup/action microsoft.keyVault/vaults/keys/recover/action
		microsoft.keyVault/vaults/keys/restore/action microsoft.keyVault/vaults/keys/backup/action
		microsoft.compute/snapshots/beginGetAccess/action microsoft.compute/disks/beginGetAccess/action`},
	{TagAdmin, `
		microsoft.authorization/elevateAccess/action user.account.privilege.grant group.privilege.grant
		microsoft.containerService/managedClusters/rbac.authorization.k8s.io/roleBindings/write
		microsoft.containerService/managedClusters/rbac.authorization.k8s.io/clusterRoleBindings/write
		microsoft.kubernetes/connectedClusters/rbac.authorization.k8s.io/roleBindings/write
		microsoft.kubernetes/connectedClusters/rbac.authorization.k8s.io/clusterRoleBindings/write
		clusterrolebindings:create clusterrolebindings:update clusterrolebindings:patch
		clusterroles:create clusterroles:update clusterroles:patch
		org.set_default_workflow_permissions org.update_member repo.update_member
		role_change_to_admin role_change_to_owner owner_transferred permissions_assigned
		rds:AddRoleToDBInstance rds:AddRoleToDBCluster`},
	{TagConsole, `signin:ConsoleLogin signin:GetSigninToken signin:SwitchRole`},
}

// actionTags is tagTable by lower-case name. It is a read-only table.
var actionTags = func() map[string]Tag {
	m := map[string]Tag{}
	for _, row := range tagTable {
		for n := range strings.FieldsSeq(row.names) {
			m[strings.ToLower(n)] |= row.tag
		}
	}
	return m
}()
