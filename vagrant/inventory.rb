# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
require "json"
require "open3"
require "yaml"

# The hosts of an Ansible inventory, for the Vagrantfile: name => variables.
module FairleadInventory
  ROOT = File.expand_path("..", __dir__)

  # Vagrant shows the message of such an error without a trace.
  class Error < Vagrant::Errors::VagrantError
    attr_reader :error_message

    def initialize(text)
      @error_message = text
      super()
    end
  end

  # Ansible knows best what an inventory means; without it the plain YAML form is read here.
  def self.hosts(path)
    raise Error, "FAIRLEAD_INVENTORY: #{path} does not exist" unless File.exist?(path)
    program = ansible_inventory
    hosts = program ? from_ansible(program, path) : from_yaml(path)
    raise Error, "#{path} has no hosts; see: ansible-inventory -i #{path} --list" if hosts.empty?
    hosts.each do |name, vars|
      next if vars["ansible_host"].to_s.match?(/\A\d+(\.\d+){3}\z/)
      raise Error, "#{path}: hosts.#{name}.ansible_host: needs an IPv4 address"
    end
  end

  def self.ansible_inventory
    places = ["#{ROOT}/.venv/bin"] + ENV.fetch("PATH", "").split(":")
    places.map { |place| File.join(place, "ansible-inventory") }.find { |file| File.executable?(file) }
  end

  def self.from_ansible(program, path)
    out, err, status = Open3.capture3({ "LC_ALL" => "C.UTF-8" }, program, "-i", path, "--list", chdir: ROOT)
    raise Error, "#{program} -i #{path}: #{err}" unless status.success?
    JSON.parse(out).fetch("_meta").fetch("hostvars").sort.to_h
  end

  def self.from_yaml(path)
    files = File.directory?(path) ? Dir[File.join(path, "*.{yml,yaml}")].sort : [path]
    hosts = {}
    files.each do |file|
      (YAML.safe_load(File.read(file)) || {}).each { |name, group| collect(name, group, {}, hosts) }
    end
    hosts.sort.to_h.transform_values { |vars| group_vars(path, "all").merge(vars) }
  end

  def self.collect(_name, group, inherited, hosts)
    return if group.nil?
    vars = inherited.merge(group["vars"] || {})
    (group["hosts"] || {}).each do |host, own|
      hosts[host] = vars.merge(hosts[host] || {}).merge(own || {})
    end
    (group["children"] || {}).each { |child, content| collect(child, content, vars, hosts) }
  end

  def self.group_vars(path, group)
    base = File.directory?(path) ? path : File.dirname(path)
    files = Dir[File.join(base, "group_vars", "#{group}.yml"), File.join(base, "group_vars", group, "*.yml")].sort
    files.map { |file| YAML.safe_load(File.read(file)) || {} }.reduce({}, :merge)
  end
end
